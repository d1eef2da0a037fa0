"""TSM from a video file, a live stream or single frames to labels. Needs no torch at import.

Lin, Gan and Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019: section 3.2 for whole clips,
section 3.4 for streams.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from effvision._files import sha256
from effvision.answers import FrameAnswers
from effvision.cards import Card, get_card
from effvision.errors import InputError, StateError, StreamingError
from effvision.host.image import resize_crop
from effvision.metadata import Metadata
from effvision.models.tsm.clock import FrameClock
from effvision.models.tsm.description import check_description, check_settings
from effvision.models.tsm.memory import TSMMemory, positive, sound, where
from effvision.models.tsm.sampling import dense_indices, uniform_indices
from effvision.models.tsm.smoothing import Smoothing, softmax
from effvision.predictor import Memory, Predictor
from effvision.results import Classification, Timing
from effvision.runtime import Runtime
from effvision.session import Session
from effvision.sources import Frame, as_frame, open_source
from effvision.state import Array, State

if TYPE_CHECKING:
    from effvision.models.tsm.network import TemporalNetwork

__all__ = ["PREDICTOR", "TSM"]

_KEPT_FRAMES = 4096
_CALIBRATED, _JUDGED = 48, 400  # rendered clips
_JUDGED_SEED = 30_000  # apart from the clips the card's figures are measured on


class TSM(Predictor):
    """Video recognition at the cost of a 2D network; causal weights also stream, one frame a step.

    `session` and `stream` take these options:
        fps: Rate in frames per second the network sees; frames are chosen by their timestamps. Default: the rate the weights
            were trained at. None: every frame.
        max_gap_s: A silence of the source longer than this resets the stream. Default: 1 s or four frames, the longer one.
        smoothing: A `Smoothing`, a number of frames to average, or None for each frame's own label. Default: what the card
            suggests.

    `Session.update(frame, timestamp=..., source=...)`: `frame` (H, W, 3) uint8 RGB; `timestamp` seconds on any steady clock
    (left out: frames are taken to come at the network's rate); `source` any text, a change of which resets the stream.
    """

    family: ClassVar[str] = "tsm"
    sample_suffix: ClassVar[str] = ".mp4"
    update_options: ClassVar[frozenset[str]] = frozenset({"timestamp", "source"})

    def __init__(self, runtime: Runtime, metadata: Metadata) -> None:
        """Take a runtime and a description that fit each other; `from_pretrained` makes both.

        Raises:
            ModelFileError: the description lacks what this family needs.
        """
        super().__init__(runtime, metadata)
        check_description(metadata)

    @classmethod
    def from_network(
        cls,
        network: TemporalNetwork,
        *,
        labels: Sequence[str],
        size: tuple[int, int],
        short_side: int | None = None,
        fps: float | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        device: str = "cpu",
    ) -> TSM:
        """Use a temporal network of your own, such as one made by `insert_temporal_shift`, in PyTorch.

        The network is used itself, not a copy: it is switched to eval mode and moved to `device`. To train it further, call
        `network.train()` and build a new TSM afterwards: sessions and exported files name the weights as they are now.

        Args:
            network: Takes normalised clips (N, T, 3, H, W). Every shift site must have at least `fold` channels.
            labels: K class names in the order of its outputs.
            size: (height, width) in pixels of its input, any size the network takes.
            short_side: Resize so that the shorter side has this many pixels, then crop the centre; None stretches to `size`.
            fps: Rate the network was trained at; None: every frame of a source is used.
            mean: Three numbers, one per RGB channel, of values 0..1; a sequence or an array.
            std: Likewise, above 0.
            device: Of PyTorch.

        Raises:
            DTypeError: `network` is no temporal network.
            InputError: a setting is out of range, the network cannot take frames of `size`, it has not as many outputs as there
                are labels, or one of its shift sites has fewer channels than `fold`.
        """
        from effvision.models.tsm.assemble import assemble, check_network

        preprocess = check_settings(labels, size, short_side, mean, std)
        options = {"fps": positive("fps", fps), "sampling": "uniform"}
        check_network(network, size, len(labels))
        return cls(*assemble(network, tuple(labels), preprocess, options, device=device))

    @classmethod
    def _from_torch(cls, card: Card, weights: Path | None, *, device: str, seed: int = 0) -> TSM:
        from effvision.models.tsm.assemble import assemble, card_network

        parts = assemble(
            card_network(card, weights, seed=seed),
            card.class_names,
            card.preprocess,
            card.options,
            device=device,
            card=card.name,
            licence=card.licence,
            weights_sha256="" if weights is None else sha256(weights),
        )
        return cls(*parts)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the scores."""
        return self.metadata.labels

    @property
    def fps(self) -> float | None:
        """Frames per second the weights were trained at; None if unknown."""
        return None if (rate := self.metadata.options.get("fps")) is None else float(rate)

    @property
    def settle(self) -> int:
        """Steps after a reset whose answers mean little, because the network has seen too few frames to judge motion."""
        return int(self.metadata.options.get("settle", 0))

    @property
    def streams(self) -> bool:
        """Whether these weights work frame by frame."""
        return "step" in self.metadata.graphs

    def predict(self, inputs: Any) -> Classification:
        """Answer for a whole video, clip or single picture.

        Causal weights stream over it from a fresh session at the rate they were trained at, and the frames' logits are averaged
        (ICCV 2019, section 3.4); others sample their frames as the reference does when testing. A single picture is a
        stream of one frame, or a clip of that frame repeated. Frames without a clock (arrays, images, iterables opened without
        `fps`) are taken to come at the rate the weights were trained at.

        Args:
            inputs: A video, picture, folder or glob; an array (T, H, W, 3) or (H, W, 3) uint8 RGB; a PIL image; a tensor;
                an iterable of frames.

        Raises:
            SourceError: it cannot be read.
            InputError: it holds no frame, or frames that cannot be used.
        """
        with open_source(inputs) as source:
            if source.live:
                raise InputError(f"{source.name} never ends, so there is no answer for all of it\nhint: use `stream`")
            causal = self.metadata.options["direction"] == "causal" and self.streams
            return self._predict_stream(source) if causal else self._predict_clip(source)

    def for_files(self) -> FrameAnswers:
        """Return what answers for one clip after the other, each by `predict`."""
        return FrameAnswers(self, Classification.columns)

    def initial_memory(  # type: ignore[override]  # named options instead of the template's **options
        self,
        *,
        fps: float | str | None = "card",
        max_gap_s: float | None = None,
        smoothing: Smoothing | int | str | None = "card",
    ) -> TSMMemory:
        """Return the memory of a stream that has seen nothing; options as in the class's description.

        Raises:
            StreamingError: the weights are bidirectional or look at the whole clip.
            InputError: an option is out of range.
        """
        if not self.streams:
            raise StreamingError(
                f"{self.metadata.card or 'this network'} cannot stream: its shift is {self.metadata.options['direction']}, so "
                "each frame was trained to see later ones (or it looks at the whole clip), which a live stream does not have\n"
                "hint: `predict` works on whole clips; for streams use weights trained with shift='causal'"
            )
        rate = self.fps if isinstance(fps, str) and fps == "card" else positive("fps", fps)
        period = None if rate is None else 1.0 / rate
        gap = positive("max_gap_s", max_gap_s) or max(1.0, 4 * (period or 0.0))
        if isinstance(smoothing, str) and smoothing == "card":
            smoothing = Smoothing.from_dict(self.metadata.options.get("smoothing") or {})
        if isinstance(smoothing, int) and not isinstance(smoothing, bool):
            smoothing = Smoothing(window=smoothing)
        if smoothing is not None and not isinstance(smoothing, Smoothing):
            raise InputError(
                f"`smoothing` must be a Smoothing, a number of frames or None; got {type(smoothing).__name__}"
            )
        rule = smoothing or Smoothing()
        rule.check_classes(len(self.labels))
        return TSMMemory(clock=FrameClock(period, gap), smoothing=rule, smoothed=rule.begin())

    def restore_memory(self, data: Mapping[str, Any], **options: Any) -> TSMMemory:
        """Rebuild a saved memory; options given anew are not taken, a saved session keeps its own."""
        if options:
            raise InputError(f"a saved session keeps its own options; leave out {', '.join(sorted(options))}")
        memory = TSMMemory.from_dict(data)
        if not sound(memory, len(self.labels)):
            raise StateError(f"the saved session's memory is damaged or of another model: {str(dict(data))[:200]}")
        return memory

    def interrupted(self, inputs: Mapping[str, Any], memory: Memory) -> str | None:
        """Say `source`, `seek` or `gap` if this frame does not continue the stream."""
        held = cast(TSMMemory, memory)
        source, timestamp = where(inputs)
        if None not in (held.source, source) and source != held.source:
            return "source"
        return None if timestamp is None else held.clock.interruption(timestamp)

    def prepare(self, inputs: Mapping[str, Any], memory: Memory) -> dict[str, np.ndarray] | None:
        """Check the frame, choose by its timestamp, resize and crop: `frame` (1, 3, H, W) float32 RGB 0..255."""
        held = cast(TSMMemory, memory)
        image = as_frame(inputs["x"])
        source, timestamp = where(inputs)
        clock = replace(held.clock)
        due = timestamp is None or clock.tick(timestamp) or held.logits is None
        pixels = self._pixels(image) if due else None
        # nothing is remembered before everything was accepted
        held.clock, held.timestamp, held.source = clock, timestamp, held.source if source is None else source
        return None if pixels is None else {"frame": pixels}

    def finish(self, arrays: Mapping[str, Array] | None, memory: Memory) -> tuple[Classification, TSMMemory]:
        """Smooth the logits and name the label; without new ones, repeat the last answer."""
        held = cast(TSMMemory, memory)
        if arrays is not None:
            logits = np.asarray(arrays["logits"][0], np.float32)
            if (
                held.steps == self.settle
            ):  # what was seen before the network had settled is not averaged into its first answers
                held.smoothed.logits = []
            held.chosen, mean = held.smoothing.update(logits, held.smoothed)
            held.logits, held.mean, held.steps = logits.tolist(), mean.tolist(), held.steps + 1
        answer = self._answer(np.asarray(held.logits, np.float32), np.asarray(held.mean, np.float32), held.chosen)
        settled = held.steps > self.settle
        return answer.replace(timestamp=held.timestamp, fresh=arrays is not None, settled=settled), held

    def frame_options(self, frame: Frame) -> dict[str, Any]:
        """Pass a source's own clock and identity on."""
        return {"timestamp": frame.timestamp if frame.clocked else None, "source": frame.source}

    def example_inputs(
        self, graph: str, *, steps: int, batch: int, seed: int, frames: Sequence[np.ndarray] = ()
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield noise in the first half and moving pictures in the second, given or rendered, RGB 0..255."""
        spec = self.metadata.graphs[graph].inputs[0]
        rng = np.random.default_rng(seed)
        moving = self._moving(frames, steps, batch, seed)  # (N, T, 3, H, W)
        for step in range(steps):
            shape = (batch, *(int(axis) for axis in spec.shape[1:]))
            if step < steps // 2:
                yield {spec.name: rng.uniform(0, 255, shape).astype(np.float32)}
            elif graph == "step":
                yield {spec.name: np.ascontiguousarray(moving[:, step])}
            else:
                times = [(step + t) % steps for t in range(int(spec.shape[1]))]
                yield {spec.name: np.ascontiguousarray(moving[:, times])}

    def _moving(self, frames: Sequence[np.ndarray], steps: int, batch: int, seed: int) -> np.ndarray:
        if len(frames):  # each stream begins at another frame
            return np.stack(
                [
                    [self._pixels(as_frame(frames[(t + 5 * n) % len(frames)]))[0] for t in range(steps)]
                    for n in range(batch)
                ]
            )
        from effvision.models.tsm.clips import SMALLEST, render_clip

        size = tuple(self.metadata.preprocess["size"])
        drawn = (max(SMALLEST, size[0]), max(SMALLEST, size[1]))
        names = ("left", "closer", "clockwise", "shake")
        clips: Any = [
            render_clip(names[n % 4], frames=steps, size=drawn, fps=self.fps or 12.0, seed=seed + n)
            for n in range(batch)
        ]
        if drawn != size:  # too small to draw in
            clips = [
                [resize_crop(frame, short_side=None, size=size, mode="stretch") for frame in clip] for clip in clips
            ]
        return np.stack(clips).transpose(0, 1, 4, 2, 3).astype(np.float32)

    def example_updates(self, count: int, *, seed: int) -> Iterator[np.ndarray]:
        """Yield frames (240, 320, 3) uint8 RGB of a rendered moving picture."""
        from effvision.models.tsm.clips import render_clip

        yield from render_clip("left", frames=count, size=(240, 320), fps=self.fps or 12.0, seed=seed)

    def rendered_examples(self, purpose: Literal["calibrate", "judge"]) -> Iterator[tuple[np.ndarray, str]] | None:
        """Yield rendered clips (T, H, W, 3) and their motion, if these weights name motions."""
        from effvision.models.tsm.clips import LABELS
        from effvision.models.tsm.recipe_data import labelled_clips

        if not self.metadata.card or not get_card(self.metadata.card).bundled or self.labels != tuple(LABELS):
            return None  # other weights, or labels alone, do not say what was trained on
        side = min(self.metadata.preprocess["size"])
        if purpose == "calibrate":  # long enough that the state comes from another motion
            clips = labelled_clips("train", _CALIBRATED, root=None, seed=1, frames=10, size=side, warm=6)
        else:
            clips = labelled_clips("validation", _JUDGED, root=None, seed=_JUDGED_SEED, frames=10, size=side)
        return ((clip, LABELS[index]) for clip, index in clips)

    @classmethod
    def write_sample(cls, path: str | os.PathLike[str], *, card: str, seed: int = 0) -> Path:
        """Render a clip of a few seconds at 480x360 that goes through every motion; a video file."""
        from effvision.models.tsm.sample import write_sample

        return write_sample(path, seed=seed)

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        settings = self.metadata.preprocess
        side = settings.get("short_side")
        height, width = settings["size"]
        mode = "stretch" if side is None else "center"
        small = resize_crop(image, short_side=side, size=(height, width), mode=mode)
        return np.ascontiguousarray(small.transpose(2, 0, 1)[None], dtype=np.float32)

    def _answer(self, logits: np.ndarray, mean: np.ndarray, chosen: int) -> Classification:
        return Classification(labels=self.labels, scores=softmax(mean), logits=logits, chosen=chosen)

    def _clip_logits(self, frames: np.ndarray) -> np.ndarray:
        """Logits (K,) of one sampled clip (T, 3, H, W); without shift its frames are judged one by one."""
        if "clip" in self.metadata.graphs:
            return np.asarray(self.runtime.run("clip", {"clip": frames[None]})["logits"][0])
        steps = [self.runtime.step({"frame": frame[None]}, State())[0]["logits"][0] for frame in frames]
        return np.mean(steps, axis=0)  # type: ignore[no-any-return]

    def _predict_stream(self, source: Any) -> Classification:
        session = Session(self, self.initial_memory(smoothing=None), self.initial_state())
        total, steps, settled, times, last = np.zeros(len(self.labels), np.float64), 0, False, [], None
        for frame in source:
            last = session.update(frame.image, **self.frame_options(frame))
            times.append(last.timing)
            answer = cast(Classification, last)
            if answer.fresh and (answer.settled or not settled):
                if answer.settled and not settled:  # drop what was summed while it had seen too little
                    total, steps, settled = np.zeros_like(total), 0, True
                total, steps = total + answer.logits, steps + 1
        if last is None:
            raise InputError("the input holds no frame")
        mean = (total / steps).astype(np.float32)
        answer = self._answer(mean, mean, int(mean.argmax()))
        return answer.replace(timing=sum(times, Timing()), timestamp=last.timestamp, index=last.index, settled=settled)

    def _predict_clip(self, source: Any) -> Classification:
        started = time.perf_counter()
        frames: list[np.ndarray] = []
        stride, seen = 1, 0
        for seen, frame in enumerate(source):
            if seen % stride == 0:
                frames.append(self._pixels(as_frame(frame.image)).astype(np.uint8))
            if len(frames) > _KEPT_FRAMES:  # hours of video: sample from every second frame, then every fourth, ...
                frames, stride = frames[::2], stride * 2
        if not frames:
            raise InputError("the input holds no frame")
        length = int(self.metadata.options["frames"])
        if self.metadata.options.get("sampling") == "dense":
            clips = dense_indices(seen + 1, length)
        else:
            clips = [uniform_indices(seen + 1, length)]
        read = time.perf_counter()
        total = np.zeros(len(self.labels), np.float64)
        for indices in clips:
            picked = [frames[min(index // stride, len(frames) - 1)] for index in indices]
            total += self._clip_logits(np.concatenate(picked).astype(np.float32))
        mean = (total / len(clips)).astype(np.float32)
        timing = Timing(prepare_ms=(read - started) * 1e3, run_ms=(time.perf_counter() - read) * 1e3)
        return self._answer(mean, mean, int(mean.argmax())).replace(timing=timing)


PREDICTOR = TSM
