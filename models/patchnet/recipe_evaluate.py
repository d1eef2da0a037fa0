"""How well a matcher finds what it was shown: pairs, key frames on a real sequence, propagated detections, and alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.checkpoints import read_checkpoint
from effvision.errors import CheckpointError, SourceError
from effvision.host.crops import crop_boxes, search_windows, template_windows
from effvision.host.peaks import find_peaks, moved_boxes
from effvision.models.patchnet.convert import from_reference
from effvision.models.patchnet.network import CELLS, SEARCH, TEMPLATE, Matcher, PatchNet
from effvision.models.patchnet.recipe_data import Pairs
from effvision.models.patchnet.recipe_train import box_overlaps_of, edges_at, inputs_of, true_cells

cv2: Any = import_cv2()

__all__ = [
    "PairScores",
    "boxes_iou",
    "follow_keys",
    "load_matcher",
    "propagate",
    "read_sequence",
    "score_pairs",
    "success",
]

Array = NDArray[Any]


@dataclass(frozen=True)
class PairScores:
    """Scores over pairs.

    Attributes:
        count: Pairs.
        right: Share whose best cell is that of the truth.
        iou: Mean overlap of the answered box with the truth.
        auc: See `success`.
        edge_error: Mean absolute error of edges in cells where the cell is right.
        hold_right, hold_iou, hold_auc: The same of the box the search was laid around.
    """

    count: int
    right: float
    iou: float
    auc: float
    edge_error: float
    hold_right: float
    hold_iou: float
    hold_auc: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.count} pairs: right cell {self.right:.3f} (hold {self.hold_right:.3f}, chance 0.020), "
            f"IoU {self.iou:.3f} (hold {self.hold_iou:.3f}), AUC {self.auc:.3f} (hold {self.hold_auc:.3f}), "
            f"edges {self.edge_error:.3f} cells"
        )

    def to_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return asdict(self)


def load_matcher(path: Path | str | None, *, zero_mean: bool = False) -> PatchNet:
    """Read weights of this recipe, or of the authors, or build the structural start for None.

    Raises:
        CheckpointError: the file cannot be read or is of another network.
    """
    network = PatchNet(zero_mean=zero_mean)
    if path is not None:
        state = dict(read_checkpoint(Path(path)))
        if "conv2.weight" in state:
            return from_reference(state, zero_mean=zero_mean)  # type: ignore[return-value]
        try:
            network.load_state_dict({name: value.float() for name, value in state.items()})
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not fit PatchNet: {error}") from error
    return network.eval()


def success(overlap: Array) -> float:
    """Mean over 21 thresholds 0, 0.05 ... 1 of the share of overlaps above (AUC of the success plot)."""
    return float(np.mean([(overlap > threshold).mean() for threshold in np.linspace(0, 1, 21)]))


def boxes_iou(one: Array, other: Array) -> Array:
    """Intersection over union of boxes (..., 4) `x1 y1 x2 y2`, half-open, broadcast."""
    inner = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.maximum(inner, 0).prod(-1)
    areas = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1)
    return shared / np.maximum(areas - shared, 1e-9)  # type: ignore[no-any-return]


@torch.inference_mode()
def score_pairs(network: Matcher, pairs: Pairs, *, at_once: int = 50) -> PairScores:
    """Measure a matcher on pairs."""
    overlap, held, right, stays, edges = [], [], [], [], []
    for begin in range(0, len(pairs.moves), at_once):
        batch = inputs_of(Pairs(*(part[begin : begin + at_once] for part in pairs)))
        response, offsets = network(batch.templates, batch.searches)
        cell, best = true_cells(batch.moves), response.flatten(1).argmax(1)
        found, own = box_overlaps_of(offsets, best, batch.moves)
        overlap.append(found)
        held.append(own)
        right.append(best == cell)
        stays.append(cell == CELLS * CELLS // 2)
        given, wanted = edges_at(offsets, cell, batch.moves)
        edges.append((given - wanted).abs().mean(1)[best == cell])
    ious, holds = torch.cat(overlap).numpy(), torch.cat(held).numpy()
    return PairScores(
        len(ious), float(torch.cat(right).float().mean()), float(ious.mean()), success(ious), float(torch.cat(edges).mean()),
        float(torch.cat(stays).float().mean()), float(holds.mean()), success(holds),
    )  # fmt: skip


def read_sequence(folder: Path) -> tuple[list[Array], Array]:
    """Read a tracking sequence: frames (H, W, 3) uint8 RGB and true boxes (T, 4) `x1 y1 x2 y2`.

    Raises:
        SourceError: it is not there.
    """
    paths = sorted((folder / "img").glob("*.jpg"))
    if not paths:
        raise SourceError(f"no sequence in {folder}\nhint: EFFVISION_SHARED names the folder that holds `data`")
    lines = (folder / "groundtruth_rect.txt").read_text().split("\n")
    values = np.array([line.replace(",", " ").split() for line in lines if line.strip()], np.float64)
    corners = values[:, :2] - 1  # counted from 1
    return [_read(path) for path in paths], np.concatenate([corners, corners + values[:, 2:]], axis=1)


def _read(path: Path) -> Array:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise SourceError(f"cannot read the picture {path}")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]


@torch.inference_mode()
def follow_keys(network: Matcher, frames: list[Array], truth: Array, every: int | None) -> Array:
    """Track with the true box as a new template on each `every`-th frame, or with that of the first frame for ever (None).

    The search is laid around a running box whose size changes by a quarter of what was found, alike in both directions; what
    is reported is the box as found.

    Returns:
        (T, 4) reported boxes; on key frames the true one.
    """
    reported, running = [], truth[:1]
    filters = mean = torch.zeros(0)
    for number, frame in enumerate(frames):
        if number == 0 or (every and number % every == 0):
            running = truth[number : number + 1]
            template = torch.from_numpy(crop_boxes(frame, template_windows(running), TEMPLATE))
            filters, mean = network.describe(template)
            reported.append(running)
            continue
        search = torch.from_numpy(crop_boxes(frame, search_windows(running, SEARCH / TEMPLATE), SEARCH))
        response, offsets = (part.numpy() for part in network.match(search, filters, mean))
        box = moved_boxes(running, find_peaks(response, np.ones(1), "plain").place, offsets)
        size = running[:, 2:] - running[:, :2]
        half = size * (0.75 + 0.25 * ((box[:, 2:] - box[:, :2]) / size).mean()) / 2
        center = (box[:, :2] + box[:, 2:]) / 2
        running = np.concatenate([center - half, center + half], axis=1)
        reported.append(box)
    return np.concatenate(reported)


@torch.inference_mode()
def propagate(
    network: Matcher | None, frames: Callable[[int], Array], rows: Array, interval: int = 6
) -> dict[int, float]:
    """Carry detections of key frames on and compare with what was detected: mean overlap by frames since the key.

    A box is compared with the nearest detection of its class in its frame; 0 where there is none.

    Args:
        network: None holds the boxes of the key frame.
        frames: Gives frame number i.
        rows: (D, 7) detections `frame class score x1 y1 x2 y2` that count.
        interval: Frames from one key to the next.
    """
    found: dict[int, list[float]] = {}
    key_boxes = np.zeros((0, 4))
    classes = np.zeros(0)
    filters = mean = torch.zeros(0)
    for number in range(int(rows[:, 0].max()) + 1):
        own = rows[rows[:, 0] == number]
        since = number % interval
        if since == 0:
            key_boxes, classes = own[:, 3:], own[:, 1]
            if len(own) and network is not None:
                crops = crop_boxes(frames(number), template_windows(key_boxes), TEMPLATE)
                filters, mean = network.describe(torch.from_numpy(crops))
            continue
        boxes = key_boxes
        if len(key_boxes) and network is not None:
            frame = frames(number)
            search = crop_boxes(frame, search_windows(key_boxes, SEARCH / TEMPLATE), SEARCH)
            response, offsets = (part.numpy() for part in network.match(torch.from_numpy(search), filters, mean))
            place = find_peaks(response, np.ones(len(boxes)), "plain").place
            limits = np.tile([frame.shape[1], frame.shape[0]], 2)
            boxes = np.clip(moved_boxes(key_boxes, place, offsets), 0, limits)
        for box, label in zip(boxes, classes, strict=True):
            alike = own[own[:, 1] == label][:, 3:]
            found.setdefault(since, []).append(float(boxes_iou(alike, box).max()) if len(alike) else 0.0)
    return {since: float(np.mean(values)) for since, values in sorted(found.items())}


def measure_sequences(network: Matcher, folder: Path) -> dict[str, Any]:
    """Measure on the real sequences of `data/patchnet`.

    Returns:
        `crossing_keys5`, `crossing_keys10`: AUC over frames that are no key; `crossing_alone` and `dragonbaby_alone`: AUC with
        the first frame's template for ever; `vid`: see `propagate`; each with `hold_`, where the last template's box is kept.
    """
    found: dict[str, Any] = {}
    for name in ("Crossing", "DragonBaby"):
        frames, truth = read_sequence(folder / name)
        number = np.arange(len(frames))
        for every in (5, 10, None):
            label = f"{name.lower()}_{'alone' if every is None else f'keys{every}'}"
            counted = number % every != 0 if every else number >= 0
            keys = truth[number - number % every] if every else truth[:1]
            overlap = boxes_iou(follow_keys(network, frames, truth, every), truth)
            found[label] = round(success(overlap[counted]), 4)
            found[f"hold_{label}"] = round(success(boxes_iou(keys, truth)[counted]), 4)
    rows = np.loadtxt(folder / "VID" / "rfcn_res101_val_00142000.txt")
    rows = rows[rows[:, 2] >= 0.5]

    def frame(number: int) -> Array:
        return _read(folder / "VID" / "ILSVRC2015_val_00142000" / f"{number:06d}.JPEG")

    for label, matcher in (("vid", network), ("hold_vid", None)):
        found[label] = {since: round(value, 4) for since, value in propagate(matcher, frame, rows).items()}
    return found
