"""Batches of the motion recipe: which clips are rendered at which step, and who renders them.

Batch number i is a function of the seed and i alone, so a run that was killed goes on with the batches it would have seen.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.errors import SourceError
from effvision.models.tsm.clips import IGNORED, LABELS, Look, Media, opposite, render_clip, render_segments

cv2: Any = import_cv2()

__all__ = [
    "FPS",
    "SIZE",
    "WARM_UP",
    "Batch",
    "Stage",
    "Stream",
    "anchor_of_last_half",
    "batches",
    "data_root",
    "labelled_clips",
]

Array = NDArray[Any]

SIZE = 96
"""Height and width of the network's input in pixels: shorter side resized (antialiased), centre cropped."""
FPS = 12.0
"""Frames per second the network is trained at."""
WARM_UP = 2
"""First frames of a clip that carry no loss: a state of zeros says nothing about motion yet."""


class Batch(NamedTuple):
    """Pictures (N, T, H, W, 3), uint8 RGB, and the label index of each frame (N, T), int64, -1 to ignore."""

    pictures: Array
    labels: Array


@dataclass(frozen=True)
class Stage:
    """What a batch holds during one part of the training.

    Attributes:
        until: Share of all steps at which the stage ends.
        clips: N, clips in a batch.
        frames: T, frames in a clip.
        easy: Share of clips with `Look.easy`.
        changing: Share of clips that begin with another motion.
        size: Height and width in pixels; None: those of the stream.
    """

    until: float
    clips: int
    frames: int
    easy: float
    changing: float
    size: int | None = None


@dataclass(frozen=True)
class Stream:
    """The endless sequence of training batches.

    Attributes:
        seed: Everything random.
        steps: Steps of the whole training, which place the stages.
        stages: The curriculum, in order.
        root: Data folder, or None for procedural pictures only.
        size: Height and width in pixels.
    """

    seed: int
    steps: int
    stages: tuple[Stage, ...]
    root: Path | None
    size: int = SIZE

    def stage(self, step: int) -> Stage:
        """The stage that `step` belongs to."""
        return next((stage for stage in self.stages if step < round(stage.until * self.steps)), self.stages[-1])

    def render(self, step: int, media: Media | None) -> Batch:
        """Render the batch of one step."""
        stage = self.stage(step)
        clips = [
            self._clip(stage, np.random.default_rng((self.seed, step, index)), media) for index in range(stage.clips)
        ]
        pictures, labels = (np.stack(parts) for parts in zip(*clips, strict=True))
        labels[:, :WARM_UP] = IGNORED
        return Batch(pictures, labels)

    def _clip(self, stage: Stage, rng: np.random.Generator, media: Media | None) -> tuple[Array, Array]:
        label = LABELS[rng.integers(len(LABELS))]
        look = Look.easy() if rng.uniform() < stage.easy else Look.train()
        lengths, size = [stage.frames], stage.size or self.size
        names = [label]
        if rng.uniform() < stage.changing:
            first = int(rng.integers(3, stage.frames // 2 + 1))
            names = [_before(label, rng), label]
            lengths = [first, stage.frames - first]
        segments = [(name, count / FPS) for name, count in zip(names, lengths, strict=True)]
        return render_segments(
            segments,
            size=(size, size),
            fps=FPS,
            seed=int(rng.integers(1 << 62)),
            media=media,
            look=look,
            anchor=float(rng.uniform(0.2, 1.0)),
            joined=True,
        )


def _before(label: str, rng: np.random.Generator) -> str:
    """A motion to begin with: often none, often the opposite one (a hand that moved away comes back)."""
    kind = rng.uniform()
    if kind < 0.4:
        return "still"
    return opposite(label) if kind < 0.65 else LABELS[rng.integers(len(LABELS))]


def batches(stream: Stream, *, start: int, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps `start`, `start + 1`, ... up to the last, rendered ahead by `workers` processes.

    With `workers=0` they are rendered in this process. The pictures are the same either way.
    """
    if workers == 0:
        media = None if stream.root is None else Media.load(stream.root, "train")
        for step in range(start, stream.steps):
            yield stream.render(step, media)
        return
    context = multiprocessing.get_context("spawn")
    queues: list[Any] = [context.Queue(maxsize=3) for _ in range(workers)]
    processes = [
        context.Process(target=_produce, args=(stream, range(start + index, stream.steps, workers), queue), daemon=True)
        for index, queue in enumerate(queues)
    ]
    for process in processes:
        process.start()
    try:
        for step in range(start, stream.steps):
            index = (step - start) % workers
            yield _next_batch(queues[index], processes[index])
    finally:
        for process in processes:
            process.terminate()


def _next_batch(queue: Any, process: Any) -> Batch:
    while True:
        try:
            batch = queue.get(timeout=10)
        except Empty:
            if process.is_alive():
                continue
            raise SourceError(
                "a process that renders training clips was killed; start the command again to go on"
            ) from None
        if isinstance(batch, str):
            raise SourceError(f"a process that renders training clips stopped: {batch}")
        return Batch(*batch)


def _produce(stream: Stream, steps: range, queue: Any) -> None:
    cv2.setNumThreads(0)  # the other cores belong to the network
    try:
        media = None if stream.root is None else Media.load(stream.root, "train")
        for step in steps:
            if not _put(queue, stream.render(step, media)):
                return
    except Exception as error:  # handed to the parent, which raises
        queue.put(f"{type(error).__name__}: {error}")


def _put(queue: Any, batch: Batch) -> bool:
    """Hand a batch over; False when nobody is left to take it, as after a SIGKILL of the training process."""
    parent = multiprocessing.parent_process()
    while parent is None or parent.is_alive():
        try:
            queue.put(batch, timeout=10)
        except Full:
            continue
        return True
    return False


def anchor_of_last_half(frames: int) -> float:
    """The middle of the last half of a clip: where place, size and angle must be alike for a fair single-frame control."""
    return (frames // 2 + frames - 1) / 2 / (frames - 1)


def labelled_clips(
    split: str, count: int, *, root: Path | None, seed: int, frames: int, size: int = SIZE, warm: int = 0
) -> Iterator[tuple[Array, int]]:
    """Yield `count` clips, classes in turn, of a split that no training batch comes from.

    Args:
        split: `validation` (unseen pictures, shapes and textures) or `train` (seen ones, other seeds; for development).
        count: Clips.
        root: Data folder, or None for procedural pictures only.
        seed: Everything random.
        frames: T of the motion asked for.
        size: Height and width in pixels.
        warm: Frames of another motion before it, so that the network starts with a state.

    Yields:
        (warm + T, H, W, 3) uint8 RGB, and the index of the label of the last T frames.
    """
    media = None if root is None else Media.load(root, split)
    look = Look.validation() if split == "validation" else Look.train()
    for index in range(count):
        label = LABELS[index % len(LABELS)]
        rng = np.random.default_rng((seed, 1 << 40, index))  # apart from every (seed, step, index) of training
        own, before = int(rng.integers(1 << 62)), _before(label, rng)
        if warm:
            segments = [(before, warm / FPS), (label, frames / FPS)]
            clip = render_segments(
                segments, size=(size, size), fps=FPS, seed=own, media=media, look=look,
                anchor=anchor_of_last_half(frames), joined=True,
            )[0]  # fmt: skip
        else:
            clip = render_clip(
                label, frames=frames, size=(size, size), fps=FPS, seed=own, media=media, look=look,
                anchor=anchor_of_last_half(frames),
            )  # fmt: skip
        yield clip, LABELS.index(label)


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
