"""Pairs of a template and a search picture with known answers: which media they come from, and how they are kept.

Rendered pairs are cut from `recipe_scenes`; real ones from near frames of clips, where dense optical flow that comes back to
where it began (forward-backward consistency) says how a box moved. Both are cropped as in use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from effvision._files import appearing
from effvision._optional import import_cv2
from effvision.errors import InputError, SourceError
from effvision.host.crops import MEAN_RGB, crop_boxes, search_windows, template_windows
from effvision.models.patchnet.network import GRID, SEARCH, TEMPLATE
from effvision.models.patchnet.recipe_scenes import Look, render_scene

cv2: Any = import_cv2()

__all__ = [
    "REACH",
    "SPLITS",
    "Media",
    "Pairs",
    "cached_pairs",
    "cut_pair",
    "data_root",
    "read_film",
    "real_pairs",
    "rendered_pairs",
]

Array = NDArray[Any]
Rng = np.random.Generator

REACH = 3  # cells either way that a response spans
SPLITS = ("train", "validation", "test")
_CHUNK = 500  # pairs of a file of the cache

# whole clips and folders; `photos` are of unclear origin: every third is for testing, and training leaves the others out
_FILMS = {
    "train": ("intel/bottle-detection", "intel/car-detection", "intel/fruit-and-vegetable-detection",
              "intel/head-pose-face-detection-female", "intel/head-pose-face-detection-female-and-male",
              "intel/store-aisle-detection"),
    "validation": ("intel/bolt-multi-size-detection", "intel/classroom"),
    "test": ("intel/face-demographics-walking", "intel/face-demographics-walking-and-pause", "intel/people-detection"),
}  # fmt: skip
_MOVING_CAMERA = ("sam2/01_dog", "sam2/04_coffee", "sam2/05_default_juggle")  # tests of real pairs only
_POSES = {"train": "hand", "validation": "body", "test": None}


class Pairs(NamedTuple):
    """N pairs and their answers.

    Attributes:
        templates: (N, 3, 64, 64) uint8 RGB.
        searches: (N, 3, 119, 119) uint8 RGB.
        moves: (N, 4) float32: how far the true edges ymin, ymax, xmin, xmax lie from those of the box the search picture was
            laid around, in cells (an eighth of that box).
    """

    templates: Array
    searches: Array
    moves: Array

    def take(self, chosen: Array) -> Pairs:
        """Return some of them."""
        return Pairs(*(part[chosen] for part in self))

    @classmethod
    def joined(cls, parts: list[Pairs]) -> Pairs:
        """Put several together."""
        return cls(*(np.concatenate(one) for one in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Media:
    """Pictures (H, W, 3), uint8 RGB, to render with, in groups that are drawn alike."""

    groups: tuple[tuple[Array, ...], ...]

    @classmethod
    def load(cls, root: Path, split: str, *, photos: bool = False) -> Media:
        """Read one side of the split.

        Args:
            root: The data folder, with `video/intel`, `gestures/poses` and, for the test, `textures/photos`.
            split: One of `SPLITS`; no clip, folder or photo is in two of them.
            photos: Also train on photos of unclear origin (an experiment; such weights are not to be shared).

        Raises:
            InputError: no such split.
            SourceError: a file is missing or cannot be read.
        """
        if split not in SPLITS:
            raise InputError(f"`split` must be one of {', '.join(SPLITS)}; got {split!r:.60}")
        groups = []
        for name in _FILMS[split]:
            film = read_film(root, name)
            groups.append(tuple(film[:: max(1, len(film) // 30)]))
        paths = media_paths(root, split, photos=photos)
        by_folder: dict[Path, list[Array]] = {}
        for path in paths:
            by_folder.setdefault(path.parent.parent, []).append(_read_still(path))
        for folder, pictures in by_folder.items():
            share = 6 if folder.name == "textures" else 3  # as much as so many clips
            groups += [tuple(pictures[number::share]) for number in range(share)]
        return cls(tuple(groups))

    def pick(self, rng: Rng) -> Array:
        """Draw one picture."""
        group = self.groups[rng.integers(len(self.groups))]
        return group[rng.integers(len(group))]


def film_names(split: str, *, real: bool = False) -> tuple[str, ...]:
    """Clips of a split below `video`; for `real` test pairs also those of a moving camera."""
    return _FILMS[split] + (_MOVING_CAMERA if real and split == "test" else ())


def media_paths(root: Path, split: str, *, photos: bool = False) -> list[Path]:
    """Still pictures of a split."""
    found: list[Path] = []
    if _POSES[split]:
        found += sorted((root / "gestures" / "poses" / str(_POSES[split])).glob("*/*.jpg"))
    if split == "test" or (split == "train" and photos):
        every = sorted((root / "textures" / "photos").glob("*.jpg"))
        found += [path for number, path in enumerate(every) if (number % 3 == 0) == (split == "test")]
    if not found:
        raise SourceError(
            f"no pictures of the split {split!r} in {root}\nhint: set EFFVISION_SHARED to the folder that holds `data`"
        )
    return found


def data_root() -> Path:
    """The shared data folder: EFFVISION_SHARED, or `shared` beside the repository.

    Raises:
        SourceError: there is none.
    """
    shared = Path(os.environ.get("EFFVISION_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (shared / "data" / "video").is_dir():
        raise SourceError(
            f"no training pictures at {shared / 'data'}\nhint: set EFFVISION_SHARED to the folder that holds `data`"
        )
    return shared / "data"


def read_film(root: Path, name: str) -> list[Array]:
    """Read a clip below `video`: frames (H, W, 3) uint8 RGB, about 15 a second.

    Raises:
        SourceError: it is missing or cannot be read.
    """
    path = root / "video" / f"{name}.mp4"
    capture = cv2.VideoCapture(str(path))
    every = 2 if capture.get(cv2.CAP_PROP_FPS) > 20 else 1
    frames: list[Array] = []
    for index in range(100_000):
        read, frame = capture.read()
        if not read:
            break
        if index % every == 0:
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    capture.release()
    if len(frames) < 2:
        raise SourceError(f"cannot read the clip {path}\nhint: the shared data folder is EFFVISION_SHARED")
    return frames


def _read_still(path: Path) -> Array:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise SourceError(f"cannot read the picture {path}")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]


def cut_pair(
    rng: Rng, first: Array, second: Array, box: Array, truth: Array, *, near: float = 0.4
) -> tuple[Array, Array, Array] | None:
    """Cut one pair for an object whose box is `box` in one frame and `truth` in the other.

    The template's box is a little off, as those of detectors are; the search is laid around a box a few cells from the truth
    and nearly as large as the template's, as a running box is; or, with probability `near`, around the template's own box, as
    where detections of a key frame are carried on.

    Returns:
        Template, search picture and moves as in `Pairs`; None where the frame hardly shows them.
    """
    size, grown = box[2:] - box[:2], (truth[2:] - truth[:2]) / (box[2:] - box[:2])
    off = np.zeros(4)
    if rng.uniform() < 0.6:
        off = np.clip(rng.normal(0, 0.04, 4), -0.1, 0.1) * np.tile(size, 2)
    box, truth, size = box + off, truth + off * np.tile(grown, 2), (box + off)[2:] - (box + off)[:2]
    moved = (truth[:2] + truth[2:] - box[:2] - box[2:]) / 2 / size * GRID
    if rng.uniform() < near and np.abs(moved).max() < REACH + 0.4:
        prior, prior_size = box, size
    else:
        prior_size = size * np.exp(rng.normal(0, 0.06) + rng.normal(0, 0.02, 2))
        wide = rng.uniform() < 0.4
        away = rng.uniform(-REACH - 0.4, REACH + 0.4, 2) if wide else np.clip(rng.normal(0, 0.9, 2), -REACH, REACH)
        center = (truth[:2] + truth[2:]) / 2 - away * prior_size / GRID
        prior = np.concatenate([center - prior_size / 2, center + prior_size / 2])
    for image, shown in ((first, box), (second, truth)):
        limits = np.array([image.shape[1], image.shape[0]])
        inside = np.minimum(shown[2:], limits) - np.maximum(shown[:2], 0)
        if min(inside) <= 0 or inside.prod() < 0.6 * (shown[2:] - shown[:2]).prod():
            return None
    template = crop_boxes(first, template_windows(box[None]), TEMPLATE)[0]
    search = crop_boxes(second, search_windows(prior[None], SEARCH / TEMPLATE), SEARCH)[0]
    moves = ((truth - prior) / np.tile(prior_size / GRID, 2))[[1, 3, 0, 2]]
    return _stored(template), _stored(search), moves.astype(np.float32)


def _stored(crop: Array) -> Array:
    mean = np.array(MEAN_RGB, np.float32)[:, None, None]
    return np.clip(np.round(crop + mean), 0, 255).astype(np.uint8)


def rendered_pairs(
    media: Media, seed: tuple[int, ...], look: Look | None = None
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield rendered pairs without end; equal seeds give equal pairs."""
    number = 0
    while True:
        rng = np.random.default_rng((*seed, number))
        first, second, *boxes = render_scene(rng, media.pick, look or Look())
        if rng.uniform() < 0.5:  # what turns from upright grows: both ways, or answers would be too large
            first, second, boxes = second, first, boxes[::-1]
        for box, truth in zip(*boxes, strict=True):
            pair = cut_pair(rng, first, second, box, truth)
            if pair is not None:
                yield pair
        number += 1


def real_pairs(film: list[Array], seed: tuple[int, ...]) -> Iterator[tuple[Array, Array, Array]]:
    """Yield pairs of near frames of a clip, in either order of time, without end or until nothing is found in it."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    fruitless = number = 0
    while fruitless < 200:
        rng = np.random.default_rng((*seed, number))
        number, fruitless = number + 1, fruitless + 1
        apart = int(rng.integers(1, min(7, len(film))))
        begin = int(rng.integers(len(film) - apart))
        frames = film[begin], film[begin + apart]
        first, second = frames if rng.uniform() < 0.5 else frames[::-1]
        for box, truth in _moving_boxes(rng, first, second, flow):
            pair = cut_pair(rng, first, second, box, truth, near=0.6)
            if pair is not None:
                fruitless = 0
                yield pair


def _moving_boxes(rng: Rng, first: Array, second: Array, flow: Any) -> list[tuple[Array, Array]]:
    """Boxes of what moved between two frames and came back to its place when followed backwards; at most four."""
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    changed = cv2.absdiff(*gray)
    if (changed > 12).mean() < 0.002:
        return []
    ahead, back = flow.calc(gray[0], gray[1], None), flow.calc(gray[1], gray[0], None)
    height, width = gray[0].shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    landed = columns + ahead[..., 0], rows + ahead[..., 1]
    returned = ahead + cv2.remap(back, *landed, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    left = cv2.absdiff(gray[0], cv2.remap(gray[1], *landed, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    agrees = np.hypot(returned[..., 0], returned[..., 1]) < 0.7
    moves = agrees & (np.hypot(ahead[..., 0], ahead[..., 1]) > 1)
    places = np.argwhere(moves)
    found: list[tuple[Array, Array]] = []
    for _ in range(60 if len(places) > 50 else 0):
        size = np.exp(rng.uniform(np.log(24), np.log(160))) * np.exp(np.array([-0.5, 0.5]) * rng.normal(0, 0.6))
        y, x = places[rng.integers(len(places))]
        x1, y1 = np.round(np.array([x, y]) - rng.uniform(0.25, 0.75, 2) * size).astype(int)
        x2, y2 = np.round(np.array([x1, y1]) + size).astype(int)
        if x1 < 0 or y1 < 0 or x2 > width or y2 > height or len(found) == 4:
            continue
        inner = agrees[y1:y2, x1:x2]
        if inner.mean() < 0.75 or moves[y1:y2, x1:x2].mean() < 0.5 or gray[0][y1:y2, x1:x2].std() < 12:
            continue
        if left[y1:y2, x1:x2].mean() > 0.6 * changed[y1:y2, x1:x2].mean():
            continue  # the motion explains nothing
        start = np.stack([columns[y1:y2, x1:x2][inner][::7], rows[y1:y2, x1:x2][inner][::7]], axis=1)
        end = start + ahead[y1:y2, x1:x2][inner][::7]
        fit, kept = cv2.estimateAffinePartial2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=1.0, maxIters=200)
        if fit is None or kept.mean() < 0.75 or abs(np.arctan2(fit[1, 0], fit[0, 0])) > 0.25:
            continue
        scale, box = float(np.hypot(fit[0, 0], fit[1, 0])), np.array([x1, y1, x2, y2], np.float64)
        middle = (box[:2] + box[2:]) / 2
        there = fit[:, :2] @ (middle - 0.5) + fit[:, 2] + 0.5
        half = scale * (box[2:] - box[:2]) / 2
        found.append((box, np.concatenate([there - half, there + half])))
    return found


def cached_pairs(
    folder: Path, root: Path, split: str, *, rendered: int, real: int, seed: int, photos: bool = False
) -> Pairs:
    """Render pairs of a split, or read those that an earlier call rendered.

    Args:
        folder: Where files of 500 pairs each are kept; what is there already is not rendered again.
        root: The data folder.
        split: One of `SPLITS`.
        rendered: Rendered pairs.
        real: Pairs of near frames of the split's clips; fewer where the clips do not show as many.
        seed: Everything random; splits differ anyhow.
        photos: See `Media.load`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = f"{split}-{'photos-' if photos else ''}{seed}"
    parts, media = [], None
    bar = tqdm(total=rendered + real, desc=f"pairs for {split}", mininterval=5)
    for number in range(-(-rendered // _CHUNK)):
        path = folder / f"{own}-rendered-{number}.npz"
        if not path.exists():
            media = media or Media.load(root, split, photos=photos)
            pairs = rendered_pairs(media, (seed, SPLITS.index(split), number))
            _write(path, [next(pairs) for _ in range(_CHUNK)])
        parts.append(_read(path))
        bar.update(_CHUNK)
    whole = Pairs.joined(parts).take(np.arange(rendered)) if parts else None
    names = film_names(split, real=True)
    each = -(-real // len(names))
    found = []
    for number, name in enumerate(names if real else ()):
        path = folder / f"{own}-real-{name.replace('/', '-')}-{each}.npz"
        if not path.exists():
            pairs = real_pairs(read_film(root, name), (seed, SPLITS.index(split), number))
            _write(path, [pair for _, pair in zip(range(each), pairs, strict=False)])
        found.append(_read(path))
        bar.update(each)
    bar.close()
    return Pairs.joined(([whole] if whole else []) + found)


def _write(path: Path, pairs: list[tuple[Array, Array, Array]]) -> None:
    templates = np.stack([pair[0] for pair in pairs]) if pairs else np.zeros((0, 3, TEMPLATE, TEMPLATE), np.uint8)
    searches = np.stack([pair[1] for pair in pairs]) if pairs else np.zeros((0, 3, SEARCH, SEARCH), np.uint8)
    moves = np.stack([pair[2] for pair in pairs]) if pairs else np.zeros((0, 4), np.float32)
    with appearing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, templates=templates, searches=searches, moves=moves)


def _read(path: Path) -> Pairs:
    with np.load(path, allow_pickle=False) as content:
        return Pairs(content["templates"], content["searches"], content["moves"])
