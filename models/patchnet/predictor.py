"""PatchNet from a first box, or from a detector's key frames, to a box in every frame. Needs no torch at import.

Mao, Zhu, Kong, Zhang and Dally, "PatchNet - Short-range Template Matching for Efficient Video Processing", 2021.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from effvision._files import sha256
from effvision.cards import Card
from effvision.detections import as_detections
from effvision.errors import DetectorError, DTypeError, InputError, ModelFileError, ShapeError
from effvision.host.crops import crop_boxes, search_windows, template_windows
from effvision.host.peaks import SCORES, Score
from effvision.host.tracking import Rule
from effvision.metadata import Metadata
from effvision.models.patchnet.given import MOST_OBJECTS, check_boxes
from effvision.models.patchnet.memory import (
    TrackMemory,
    begin,
    check_ids,
    check_memory,
    check_together,
    given_up,
    joined_names,
    lost_or_found,
    number,
    settings_of,
)
from effvision.models.patchnet.program import (
    SEARCH,
    TEMPLATE,
    empty_state,
    open_objects,
    opening,
    plan,
    run_together,
    settle,
)
from effvision.predictor import Memory, Predictor
from effvision.runtime import Runtime
from effvision.sources import Frame, as_frame, open_source
from effvision.state import Array, State
from effvision.tracks import Tracks

if TYPE_CHECKING:
    from effvision.export import Int8, KitReport
    from effvision.export.precision import Form
    from effvision.models.patchnet.accelerate import Accelerated, Detector
    from effvision.models.patchnet.network import Matcher

__all__ = ["PREDICTOR", "PatchNet"]

_SCORES: tuple[Score | None, ...] = (None, *SCORES)
_IN_KITS = {
    **dict.fromkeys(("crop_boxes", "crop_boxes_numpy", "search_windows", "template_windows"), "effvision.host.crops"),
    **dict.fromkeys(("advance", "empty_state", "run_rows"), "effvision.models.patchnet.program"),
    "EffvisionError": "effvision.errors",
    "Rows": "effvision.models.patchnet.program",
    "Rule": "effvision.host.tracking",
    "State": "effvision.state",
    "check_boxes": "effvision.models.patchnet.given",
    "draw_boxes": "effvision.viz.boxes",
    "xywh_to_xyxy": "effvision.host.boxes",
}


class PatchNet(Predictor):
    """Follow any number of objects from the boxes they start in; all of them go through a small network together.

    `session` and `stream` take these options:
        boxes: (M, 4) `x1 y1 x2 y2` in pixels of the objects to begin with in the first frame.
        ids: Their M numbers; left out: 1, 2, 3, ...
        max_lost_s: Seconds after which a lost object is given up. Default: never.
        least_overlap: Intersection over union of an object and a detection that are the same. Default: 0.3.
        max_missed: Key frames in a row whose detector may miss an object that is still followed. Default: 1.
        fps: Of frames that come without a timestamp. Default: 30.
        score: What a result tells as score. Default: `likeness`, 0..1, which also decides what is lost: how the match, the
            colours and their histogram compare with those of the given box. Or one of the paper's, `peak`, `plain`, `temporal`,
            `combined`, see `effvision.host.peaks.find_peaks`; `plain` and `temporal` exceed 1.
        templates: `kept` (default): each is compared with the box it was given in; `chained`: with where it was found last,
            which follows any change and drifts. Chained takes a second call of the network for every frame.

    `Session.update(frame, boxes=..., ids=..., remove=..., detections=..., timestamp=..., source=...)`: `frame` (H, W, 3) uint8
    RGB. `boxes` start objects in this frame, at any time; `ids` give them numbers, and one that is followed already starts anew
    in its box. `remove` are numbers to give up before it. `detections` make it a key frame: what a detector found in this very
    frame, in any of the forms `effvision.detections.as_detections` reads. Objects it found again keep their number and
    start anew in the detector's box; those that `boxes` start in this very frame stay in these, and get its class and score;
    what it found besides becomes a new object; what it missed is given up if it was lost, or missed more than `max_missed`
    times in a row.

    All frames of a session have one size. Boxes may reach over the border of the frame. A box that holds one plain colour is
    followed by that colour alone: its score is 0.6 at most (0 by the paper's scores), and once lost it is not found again.
    """

    family: ClassVar[str] = "patchnet"
    sample_suffix: ClassVar[str] = ".mp4"
    sample_words: ClassVar[str] = "--box 79 58 131 126"
    update_options: ClassVar[frozenset[str]] = frozenset(
        {"boxes", "ids", "remove", "detections", "timestamp", "source"}
    )
    counts: ClassVar[Literal["stream", "objects"]] = "objects"

    def __init__(self, runtime: Runtime, metadata: Metadata) -> None:
        """Take a runtime and a description that fit each other; `from_pretrained` makes both.

        Raises:
            ModelFileError: the description lacks what this family needs.
        """
        super().__init__(runtime, metadata)
        graph = metadata.graphs.get("step")
        shapes = None if graph is None else {tensor.name: tensor.shape[1:] for tensor in graph.inputs}
        if shapes != {"search": (3, SEARCH, SEARCH), "template": (3, TEMPLATE, TEMPLATE), "refresh": ()}:
            raise ModelFileError(f"the description of this PatchNet model is damaged: its inputs are {shapes}")
        self.rule = Rule()

    @classmethod
    def from_network(cls, network: Matcher, *, device: str = "cpu") -> PatchNet:
        """Use a matcher of your own in PyTorch, such as one of `effvision.models.patchnet.convert.from_reference`.

        The network is used itself, not a copy: it is switched to eval mode and moved to `device`.

        Raises:
            DTypeError: `network` is none of this family.
        """
        from effvision.models.patchnet.assemble import assemble

        return cls(*assemble(network, {}, device=device))

    @classmethod
    def _from_torch(cls, card: Card, weights: Path | None, *, device: str, seed: int = 0) -> PatchNet:
        from effvision.models.patchnet.assemble import assemble, card_network

        parts = assemble(
            card_network(card, weights, seed=seed),
            card.options,
            device=device,
            card=card.name,
            licence=card.licence,
            weights_sha256="" if weights is None else sha256(weights),
        )
        return cls(*parts)

    def predict(self, inputs: Any, **options: Any) -> Tracks:
        """Follow objects through a whole video, clip or folder, and answer for its last frame; `stream` answers for each.

        Args:
            inputs: A video, picture, folder or glob; an array (T, H, W, 3) or (H, W, 3) uint8 RGB; an iterable of frames.
            **options: Of the session, such as `boxes`. Without boxes there is no object to follow.

        Raises:
            SourceError: it cannot be read.
            InputError: it holds no frame, or one that cannot be used; or it never ends.
        """
        session = self.session(**options)
        result: Tracks | None = None
        with open_source(inputs) as source:
            if source.live:
                raise InputError(f"{source.name} never ends, so there is no last frame\nhint: use `stream`")
            for frame in source:
                result = cast(Tracks, session.update(frame.image, **self.frame_options(frame)))
                result = result.replace(image=frame.image)
        if result is None:
            raise InputError("the source holds no frame")
        return result

    def for_files(self, *, boxes: Any = None, boxes_file: Any = None, detector: Any = None, every: Any = None) -> Any:
        """Return what follows objects through one video after the other; see `effvision.models.patchnet.answers`."""
        from effvision.models.patchnet.answers import TrackAnswers

        return TrackAnswers(self, boxes=boxes, boxes_file=boxes_file, detector=detector, every=every)

    def accelerate(self, detector: Detector | str | os.PathLike[str], **options: Any) -> Accelerated:
        """Run a detector on key frames only and follow what it found; see `effvision.accelerate`."""
        from effvision.models.patchnet.accelerate import accelerate

        return accelerate(detector, model=self, **options)

    def initial_memory(  # type: ignore[override]  # named options instead of the template's **options
        self,
        *,
        boxes: Any = None,
        ids: Any = None,
        max_lost_s: float | None = None,
        least_overlap: float = 0.3,
        max_missed: int = 1,
        fps: float = 30.0,
        score: str = "likeness",
        templates: str = "kept",
    ) -> TrackMemory:
        """Return the memory of a stream that has seen nothing; options as in the class's description.

        Raises:
            InputError: an option is out of range.
        """
        return TrackMemory(
            settings=settings_of(boxes, ids, max_lost_s, least_overlap, max_missed, fps, score, templates)
        )

    def initial_state(self) -> State:
        """Return the state of a stream without objects."""
        return empty_state(self.rule)

    def restore_memory(self, data: Mapping[str, Any], **options: Any) -> TrackMemory:
        """Rebuild a saved memory; options given anew are not taken, a saved session keeps its own."""
        if options:
            raise InputError(f"a saved session keeps its own options; leave out {', '.join(sorted(options))}")
        memory = TrackMemory.from_dict(data)
        check_memory(memory)
        return memory

    def check_restored(self, memory: Memory, state: State) -> None:
        """Refuse a saved memory whose objects are not those of the saved state."""
        check_together(cast(TrackMemory, memory), state)

    def interrupted(self, inputs: Mapping[str, Any], memory: Memory) -> str | None:
        """Say `source` or `seek` if this frame does not continue the stream."""
        held = cast(TrackMemory, memory)
        source, timestamp = inputs.get("source"), inputs.get("timestamp")
        if source is not None and not isinstance(source, str):
            raise DTypeError(f"`source` must be text; got {type(source).__name__}")
        if timestamp is not None:
            timestamp = number("timestamp", timestamp, least=-float("inf"))
        if None not in (held.source, source) and source != held.source:
            return "source"
        back = timestamp is not None and held.timestamp is not None and timestamp < held.timestamp
        return "seek" if back else None

    def prepare(self, inputs: Mapping[str, Any], memory: Memory) -> dict[str, np.ndarray]:
        """Check the frame, the boxes and the detections; who goes on is noted in the memory."""
        held = cast(TrackMemory, memory)
        image = as_frame(inputs["x"])
        height, width = image.shape[:2]
        if held.size is not None and held.size != (height, width):
            raise ShapeError(
                f"the frames of a session have one size: so far {held.size[1]}x{held.size[0]} pixels, now {width}x{height}\n"
                "hint: resize it, or `reset` the session and start its objects anew"
            )
        boxes, ids = inputs.get("boxes"), inputs.get("ids")
        if boxes is None and ids is not None:
            raise InputError("`ids` are the numbers of `boxes`: give both, or neither")
        if held.size is None and boxes is None and held.settings.boxes:
            boxes, ids = held.settings.boxes, held.settings.ids or None
        started = check_boxes([] if boxes is None else boxes, (height, width))
        numbers: Sequence[int | None] = [None] * len(started) if ids is None else check_ids(ids, len(started))
        removed = self._removed(inputs.get("remove"), held)
        starting, following = begin(held, numbers)
        restarted = {one.id for one in starting}
        kinds = {one.id: one.kind for one in held.objects if one.id not in held.gone}
        starting = tuple(replace(one, kind=kinds.get(one.id, -1)) for one in starting)
        gone = removed | restarted | set(held.gone)
        kept = tuple(row for row, one in enumerate(held.objects) if one.id not in gone)
        overlap = np.array(held.settings.least_overlap)
        arrays: dict[str, np.ndarray] = {
            "image": image,
            "kept": np.array(kept, np.int64),
            "started": started,
            "least_overlap": overlap,
            "score": np.array(_SCORES.index(None if held.settings.score == "likeness" else held.settings.score)),
            "chained": np.array(held.settings.templates == "chained"),
        }
        found = inputs.get("detections")
        key, names = "detections" in inputs and found is not None, held.names
        if key:
            detections = as_detections(found, height=height, width=width)
            if len(detections) > MOST_OBJECTS:
                raise DetectorError(
                    f"the detector returned {len(detections)} boxes; {MOST_OBJECTS} are the most\n"
                    "hint: suppress those that lie over each other (`effvision.host.boxes.nms`), or keep the best"
                )
            arrays["found"], names = detections.boxes.astype(np.float64), joined_names(detections.names, names)
            own = np.array([held.objects[row].kind for row in kept] + [one.kind for one in starting], np.int64)
            other = detections.classes
            arrays["may_match"] = (own[:, None] == other) | (own[:, None] < 0) | (other < 0)
            arrays["found_scores"] = detections.scores
        timestamp, source = inputs.get("timestamp"), inputs.get("source")
        now = held.clock_s
        now = float(timestamp) if timestamp is not None else 0.0 if now is None else now + 1 / held.settings.fps
        arrays["seconds"] = np.array(0.0 if held.clock_s is None else max(0.0, now - held.clock_s))
        # nothing is remembered before everything was accepted
        held.kept, held.starting, held.next_id, held.names = kept, starting, following, names
        held.kinds = tuple(detections.classes.tolist()) if key else None
        held.size, held.clock_s = (height, width), now
        held.timestamp = held.timestamp if timestamp is None else float(timestamp)
        held.source = held.source if source is None else source
        return arrays

    @staticmethod
    def _removed(value: Any, held: TrackMemory) -> set[int]:
        if value is None:
            return set()
        numbers = set(check_ids(value, name="remove"))
        there = [one.id for one in held.objects if one.id not in held.gone]
        if unknown := numbers - set(there):
            raise InputError(
                f"`remove` names {min(unknown)}, which is not followed; there are: {', '.join(map(str, there)) or 'none'}\n"
                "hint: the last result's `ids` are those that are followed"
            )
        return numbers

    def program(
        self, runtime: Runtime, arrays: Mapping[str, np.ndarray], state: State
    ) -> tuple[dict[str, Array], State]:
        """Search, read the answers, cut new templates; see `effvision.models.patchnet.program`."""
        return self.program_many(runtime, [arrays], [state])[0]

    def program_many(
        self, runtime: Runtime, arrays: Sequence[Mapping[str, np.ndarray]], states: Sequence[State]
    ) -> list[tuple[dict[str, Array], State]]:
        """Likewise for several streams; the objects of all go through the graph together."""
        plans = [
            plan(given["image"], given["kept"].tolist(), state, self.rule)
            for given, state in zip(arrays, states, strict=True)
        ]
        halves = []
        for given, planned, (outputs, following) in zip(
            arrays, plans, run_together(runtime, [planned[0] for planned in plans]), strict=True
        ):
            del following  # nothing was refreshed: the state of the rows is what it was
            half = settle(
                planned,
                outputs,
                self.rule,
                seconds=float(given["seconds"]),
                started=given["started"],
                found=given.get("found"),
                may_match=given.get("may_match"),
                least_overlap=float(given["least_overlap"]),
                score=_SCORES[int(given["score"])],
                chained=bool(given["chained"]),
            )
            halves.append(half)
        opened = [opening(given["image"], half) for given, half in zip(arrays, halves, strict=True)]
        results = []
        for given, half, rows, (outputs, following) in zip(
            arrays, halves, opened, run_together(runtime, opened), strict=True
        ):
            answer, state = open_objects(half, rows, outputs, following, self.rule)
            if "found_scores" in given:
                taken = answer["detection"] >= 0
                answer["scores"][taken] = given["found_scores"][answer["detection"][taken]]
            results.append((answer, state))
        return results

    def finish(self, arrays: Mapping[str, Array] | None, memory: Memory) -> tuple[Tracks, TrackMemory]:
        """Name the objects, and give up those that were lost or missed for too long."""
        held = cast(TrackMemory, memory)
        assert arrays is not None
        origin, detection, lost = arrays["origin"], arrays["detection"], arrays["lost"]
        old = [held.objects[row] for row in held.kept]
        now, objects = float(held.clock_s or 0.0), []
        for place in range(len(origin)):
            kind = -1 if held.kinds is None or detection[place] < 0 else held.kinds[detection[place]]
            asked = place - len(old)  # those that were asked for come first of the new ones
            if origin[place] >= 0:
                one = lost_or_found(old[origin[place]], bool(lost[place]), now)
                if held.kinds is not None:
                    missed = 0 if detection[place] >= 0 else one.missed + 1
                    one = replace(one, missed=missed, kind=kind if kind >= 0 else one.kind)
            elif asked < len(held.starting):
                one = held.starting[asked]
                one = replace(one, kind=kind if kind >= 0 else one.kind)
            else:
                (one,), held.next_id = begin(held, [None], [kind])
            objects.append(one)
        ended = [given_up(one, held, now) for one in objects]
        here = np.flatnonzero(~np.array(ended, bool))
        held.objects = tuple(objects)
        held.gone = tuple(one.id for one, left in zip(objects, ended, strict=True) if left)
        result = Tracks(
            boxes=np.asarray(arrays["boxes"][here], np.float32),
            ids=np.array([objects[row].id for row in here], np.int64),
            scores=np.asarray(arrays["scores"][here], np.float32),
            lost=np.asarray(lost[here], bool),
            classes=np.array([objects[row].kind for row in here], np.int64),
            names=held.names,
            key=held.kinds is not None,
            ended=held.gone,
            timestamp=held.timestamp,
        )
        held.kept, held.starting, held.kinds = (), (), None
        return result, held

    def export_kit(
        self,
        target: str,
        folder: str | os.PathLike[str],
        *,
        frames: Any = None,
        half: bool = False,
        int8: Int8 | Form | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> KitReport:
        """Write a folder that follows objects on a device; see `Predictor.export_kit` and `effvision.export.kit_tracking`."""
        from effvision.export.kit_tracking import export_tracking_kit

        return export_tracking_kit(
            self, target, folder, names=_IN_KITS, frames=frames, half=half, int8=int8, notify=notify
        )

    def frame_options(self, frame: Frame) -> dict[str, Any]:
        """Pass a source's own clock and identity on."""
        return {"timestamp": frame.timestamp if frame.clocked else None, "source": frame.source}

    def example_options(self) -> dict[str, Any]:
        """Begin with the box of the sample's object."""
        from effvision.models.patchnet.sample import FIRST_BOXES

        return {"boxes": FIRST_BOXES}

    def example_inputs(
        self, graph: str, *, steps: int, batch: int, seed: int, frames: Sequence[np.ndarray] = ()
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield noise in the first half and crops of moving pictures in the second; some templates change at every step."""
        from effvision.models.patchnet.sample import moving_boxes

        rng = np.random.default_rng([seed, batch])
        moving = moving_boxes(batch, steps, seed=seed, frames=frames)
        for step in range(steps):
            refresh = (rng.random(batch) < (1.0 if step == 0 else 0.3)).astype(np.float32)
            if step < steps // 2:
                search = rng.uniform(-120, 135, (batch, 3, SEARCH, SEARCH)).astype(np.float32)
                template = rng.uniform(-120, 135, (batch, 3, TEMPLATE, TEMPLATE)).astype(np.float32)
            else:
                image, boxes = next(moving)
                search = crop_boxes(image, search_windows(boxes, SEARCH / TEMPLATE), SEARCH)
                template = crop_boxes(image, template_windows(boxes), TEMPLATE)
            yield {"search": search, "template": template, "refresh": refresh}

    def example_updates(self, count: int, *, seed: int) -> Iterator[np.ndarray]:
        """Yield frames (360, 480, 3) uint8 RGB of things that move over a background."""
        from effvision.models.patchnet.sample import render

        for image, _ in render(count, seed=seed):
            yield image

    @classmethod
    def write_sample(cls, path: str | os.PathLike[str], *, card: str, seed: int = 0) -> Path:
        """Write a video of things that move over a background; the first begins in `FIRST_BOXES`."""
        from effvision.models.patchnet.sample import write_sample

        return write_sample(path, seed=seed)


PREDICTOR = PatchNet
