"""Predictor and session: what every family shares, whatever its runtime.

A predictor is a template: `prepare(inputs, memory)` makes named arrays, `program(runtime, arrays, state)` runs them (by default
one step of one graph), `finish(arrays, memory)` makes the result. Arrays a stream remembers are its `State`; everything else
(clock, smoothing, counters) is its `Memory`, plain data that can be saved.
"""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from effvision._files import as_path
from effvision.answers import FRAME_SUFFIXES, Answers
from effvision.cards import Card, default_card, get_card, predictor_class
from effvision.checkpoints import find_weights
from effvision.errors import CardError, EffvisionError, InputError, ModelFileError
from effvision.loading import RuntimeName, card_of, check_choices, choose, exported
from effvision.many import from_frame, program_joined, stream_many, update_many
from effvision.metadata import Metadata
from effvision.results import Result
from effvision.runtime import Runtime
from effvision.sources import open_source
from effvision.state import Array, State

if TYPE_CHECKING:
    from typing_extensions import Self

    from effvision.export import ExportReport, Int8, KitReport, TritonReport
    from effvision.export.precision import Form
    from effvision.session import Session

__all__ = ["Memory", "Predictor"]

_CHECKED_FRAMES = 64
_CHECKPOINTS = (".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin")


@dataclass
class Memory:
    """What a session remembers that is no array; families add fields of plain data.

    Attributes:
        updates: Updates since the start or the last reset.
        reset_reason: Set by a reset, told by the next result, then cleared.
    """

    updates: int = 0
    reset_reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` takes back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`; families with nested values override it."""
        return cls(**data)


class Predictor(ABC):
    """A model ready for use. Build it with `from_pretrained`.

    Attributes:
        family: The family's name, as in its cards.
        sample_suffix: Of the files `write_sample` makes.
        sample_words: What `effvision run` has to be told besides the sample.
        update_options: Names `Session.update` takes besides its first argument.
        reads: Suffixes of the files a folder stands for in `effvision map`.
        takes: What one update takes: a frame, a cloud of points, or a label map.
        joins: Whether several sessions fit into one call of the network; otherwise `update_many` takes them in turns.
        counts: What the first axis of a session's state counts: its one stream, or the objects in it, any number of them;
            `maps`: its one picture, whose maps the family compares itself (`check_restored`).
        runtime: The back end; named arrays in, named arrays out.
        metadata: Labels, sizes, graphs: what an exported file carries.
    """

    family: ClassVar[str]
    sample_suffix: ClassVar[str]
    sample_words: ClassVar[str] = ""
    update_options: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[Literal["frames", "clouds", "labels"]] = "frames"
    reads: ClassVar[tuple[str, ...]] = FRAME_SUFFIXES
    joins: ClassVar[bool] = True
    counts: ClassVar[Literal["stream", "objects", "maps"]] = "stream"

    def __init__(self, runtime: Runtime, metadata: Metadata) -> None:
        self.runtime = runtime
        self.metadata = metadata

    def __repr__(self) -> str:
        name = self.metadata.card or "own network"
        return f"{type(self).__name__}({name!r}, runtime={self.runtime.name!r}, device={self.runtime.device!r})"

    @property
    def streams(self) -> bool:
        """Whether `session` and `stream` work; a model that needs the whole clip only predicts."""
        return True

    # -- making one --------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        card: str | None = None,
        runtime: RuntimeName | None = None,
        device: str = "cpu",
        threads: int | None = None,
        progress: bool = False,
    ) -> Self:
        """Load a model.

        Args:
            source: A card's name (`effvision list`), a checkpoint file (then `card` says whose settings it has), or an exported
                `.onnx` file. Default: the family's default card.
            card: The card a checkpoint file belongs to; not needed for our own files, which name it.
            runtime: `torch` or `onnx`. Default: PyTorch if it can be imported, else ONNX Runtime.
            device: `cpu`, `cuda`, `mps` (PyTorch); `cpu`, `cuda`, `tensorrt`, `coreml`, `openvino` (ONNX Runtime).
            threads: ONNX Runtime: threads inside an operator. PyTorch's are set by `torch.set_num_threads`.
            progress: Show a bar while weights are fetched or exported.

        Raises:
            CardError: no such card or file; near names are suggested.
            DownloadError: the weights are not here and cannot be fetched.
            CheckpointError: the checkpoint is damaged, unsafe or does not fit.
            ModelFileError: the `.onnx` file is damaged, not ours, or of another family.
            MissingDependencyError: neither runtime, or not the one asked for, is installed.
        """
        check_choices(runtime, device, threads, card)
        family = getattr(cls, "family", None)
        if source is None and family is None:
            raise InputError("say which model: a card's name (`effvision list`), a checkpoint or an exported file")
        name = default_card(str(family)).name if source is None else str(as_path(source, name="source"))
        path, suffix = Path(name), Path(name).suffix.lower()
        if card is not None and suffix not in _CHECKPOINTS and not (suffix != ".onnx" and path.is_file()):
            raise InputError(f"`card` says whose settings a checkpoint file has; {name!r} is none: leave `card` out")
        if suffix == ".onnx":
            if runtime == "torch":
                raise InputError(f"{path} is an exported file: it runs in ONNX Runtime; leave `runtime` out")
            return cls._from_onnx(path, device=device, threads=threads)
        weights: Path | None = None
        if suffix in _CHECKPOINTS or path.is_file():
            weights, name = path, card or card_of(path)
        chosen = get_card(name, family=family)
        target = cls if family else predictor_class(chosen.family)
        if choose(runtime) == "torch":
            if threads is not None:
                raise InputError("`threads` is for ONNX Runtime; PyTorch's are set by torch.set_num_threads")
            found = weights or find_weights(chosen, progress=progress)
            return cast("Self", target._from_torch(chosen, found, device=device))
        found = weights or exported(target, chosen, progress=progress)
        if weights is not None:
            raise InputError(
                f"ONNX Runtime runs exported files, not the checkpoint {weights}\nhint: `model.export(...)` it first"
            )
        return cast("Self", target._from_onnx(found, device=device, threads=threads))

    @classmethod
    def untrained(cls, card: str, *, seed: int = 0) -> Self:
        """Build a card's network with random weights in PyTorch: for timing, export checks and tests, not for answers.

        Raises:
            CardError: there is no such card.
        """
        chosen = get_card(card, family=getattr(cls, "family", None))
        target = cls if getattr(cls, "family", None) else predictor_class(chosen.family)
        return cast("Self", target._from_torch(chosen, None, device="cpu", seed=seed))

    @classmethod
    def _from_onnx(cls, path: Path, *, device: str, threads: int | None) -> Self:
        from effvision.runtime.edits import driven
        from effvision.runtime.onnx import OnnxRuntime

        file, metadata = OnnxRuntime.load(path, device=device, threads=threads)
        wanted = getattr(cls, "family", None)
        try:
            target = predictor_class(metadata.family)
        except CardError as error:
            raise ModelFileError(
                f"{path} holds a model of the family {metadata.family!r}, unknown here\nhint: update"
            ) from error
        if wanted not in (None, metadata.family):
            raise ModelFileError(
                f"{path} holds a model of the family {metadata.family!r}, not {wanted!r}\n"
                f"hint: from effvision import {target.__name__}; {target.__name__}.from_pretrained({str(path)!r})"
            )
        try:
            return cast("Self", target(*driven(file, metadata)))
        except ModelFileError as error:  # the family knows what is wrong, not where it came from
            raise ModelFileError(f"{path}: {error}\nhint: export it again") from error

    @classmethod
    @abstractmethod
    def _from_torch(cls, card: Card, weights: Path | None, *, device: str, seed: int = 0) -> Self:
        """Build the network in PyTorch from a checkpoint, or with seeded random weights where `weights` is None."""

    # -- using it ----------------------------------------------------------------------------------------------------------

    def predict(self, inputs: Any) -> Result:
        """Answer for one input: one update of a fresh session."""
        return self.session().update(inputs)

    def session(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Session:
        """Open a session: one stream's state and memory. One per camera; the network is shared.

        Args:
            path: A file written by `Session.save`, to go on from there.
            **options: The family's session options; see its class.

        Raises:
            StreamingError: these weights cannot work frame by frame.
            StateError: the saved session belongs to another model.
        """
        kind = self.session_class()
        known = [name for name in inspect.signature(self.initial_memory).parameters if name != "options"]
        if unknown := set(options) - set(known):
            raise InputError(
                f"`session` takes no option {', '.join(sorted(unknown))} here; it takes: {', '.join(known) or 'none'}"
            )
        if path is not None:
            return kind.load(self, path, **options)
        return kind(self, self.initial_memory(**options), self.initial_state())

    def stream(self, source: Any, *, images: bool = True, **options: Any) -> Iterator[Result]:
        """Return an iterator with one result per frame of a source: camera, address, video, folder, array, iterable of frames.

        Files give every frame. Live sources give the newest one, so that a slow model does not fall behind; when a camera was
        lost and has come back, the session starts afresh and the result says so (`reset_reason`).

        The source is opened and the options are checked by this call, not at the first result.

        Args:
            source: What `effvision.sources.open_source` takes. Frames without a clock (arrays, images, iterables opened without
                `fps`) are taken to come at the rate the model was trained at.
            images: Keep the frame in `result.image`, so that `result.plot()` works; switch off before collecting a long stream.
            **options: The family's session options.

        Raises:
            SourceError: the source cannot be read.
            StreamingError: these weights cannot work frame by frame.
        """
        session = self.session(**options)
        frames = open_source(source)

        def results() -> Iterator[Result]:
            with frames:
                for frame in frames:
                    result = session.update(frame.image, **self.frame_options(frame))
                    yield from_frame(result, frame, images)

        return results()

    def stream_many(
        self,
        sources: Sequence[Any],
        *,
        images: bool = True,
        on_error: Callable[[int, EffvisionError], None] | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, Result]]:
        """Return an iterator over (place of the source, result): several streams at once, one call of the network for all.

        Each source has a session of its own and ends on its own. Files give every frame; of live sources the newest is taken,
        and one that is slow or lost holds up nobody. As with `stream`, sources are opened and options checked by this call.

        Args:
            sources: A list of what `effvision.sources.open_source` takes.
            images: Keep the frame in `result.image`.
            on_error: Called with the place and the error when a source fails; the others go on. Default: the error is raised.
            **options: The family's session options, for all of them.

        Raises:
            InputError: no source, or one given twice.
            DTypeError: `sources` is no list: a path or an array is one source.
            SourceError: a source cannot be opened; those opened before are closed.
            StreamingError: these weights cannot work frame by frame, or several sessions do not fit into one call (`joins`).
        """
        return stream_many(self, sources, images=images, on_error=on_error, options=options)

    def update_many(
        self, sessions: Sequence[Session], inputs: Sequence[Any], options: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Result]:
        """Advance several sessions in one call of the network; each gets what it would get alone (to float rounding).

        Sessions may join and leave between calls. The gain is on GPUs; a file exported for a fixed number of streams takes so
        many at a time.

        Args:
            sessions: Sessions of this predictor, all different.
            inputs: One input per session.
            options: Per session, what `Session.update` takes besides the input (such as `timestamp`).

        Raises:
            InputError: the lengths differ, a session appears twice, or belongs to another predictor.
        """
        return update_many(self, sessions, inputs, [{}] * len(sessions) if options is None else options)

    def for_files(self) -> Answers:
        """Return what answers for one file after the other, for `effvision.batch`; families name their options as arguments."""
        return Answers(self)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        batch: int | Literal["dynamic"] = 1,
        opset: int = 17,
        steps: int = 16,
        frames: Any = None,
        half: bool = False,
        int8: Int8 | Form | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> ExportReport:
        """Write one ONNX file that holds everything needed to use it again, after checking it against PyTorch.

        Args:
            path: A name ending in `.onnx` in a folder that exists; replaced only when the check has passed.
            batch: Streams per call: a fixed number (fastest on Jetson) or `dynamic`.
            opset: 13 to 20; 17 (with IR 8) is read by every ONNX Runtime since 1.12 and by TensorRT 8.4 and newer.
            steps: Frames of each checked stream, 16 or more.
            frames: A source of real input (`effvision.sources.open_source`), such as a clip of the camera it will run on: the
                check uses its first frames beside noise. Default: rendered ones.
            half: Compute in float16, for GPUs; inputs, outputs and states stay float32.
            int8: `cpu` or `tensorrt`, two forms that are not for each other's machines, or an `effvision.export.Int8` with the
                recordings to calibrate on and labelled ones to judge by. Refused, with the numbers, if accuracy falls by more
                than a point or, for `cpu`, if it is not faster on this machine.
            notify: Told in a few words what is going on.

        Returns:
            What was written and measured; it can be used as a path.

        Raises:
            ExportError: the graph cannot be written so, it differs from PyTorch, or the precision asked for is refused; no file
                is left.
            InputError: an argument is out of range, or the calibration data are too few or do not fit.
            MissingDependencyError: torch, onnx, onnxscript or onnxruntime is not installed.
        """
        from effvision.export import export_onnx
        from effvision.export.precision import converter

        self._check_torch()
        examples = self.example_inputs
        if frames is not None:
            examples = partial(examples, frames=self.real_inputs(frames))
        convert = converter(self, examples, half=half, int8=int8, opset=opset, batch=batch, notify=notify)
        return export_onnx(
            self.runtime, self.metadata, examples, path, batch=batch, opset=opset, steps=steps, convert=convert
        )

    def _check_torch(self) -> None:
        """Refuse to export what was exported already."""
        if self.runtime.name != "torch":
            raise InputError(
                f"this model runs in {self.runtime.name} from an exported file; copy that file instead\n"
                "hint: from_pretrained(CARD, runtime='torch').export(...)"
            )

    def export_kit(
        self,
        target: str,
        folder: str | os.PathLike[str],
        *,
        frames: Any = None,
        half: bool = False,
        int8: Int8 | Form | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> KitReport | TritonReport:
        """Write a folder that runs this model on a device with numpy, ONNX Runtime and OpenCV; see `effvision.export.kit`.

        Args:
            target: `jetson-nano`, `jp51`, `jp60`, `jp62`, `jp72` or `onnx`; see `effvision.export.targets`. `triton` adds the
                model to a repository of NVIDIA Triton Inference Server; see `effvision.export.triton`.
            folder: Made; an earlier kit there is replaced once all checks have passed.
            frames: As for `export`; the first ones go into the kit's golden vectors.
            half: As for `export`.
            int8: As for `export`; `tensorrt` for targets that have TensorRT and int8 units, `cpu` for `onnx`.
            notify: As for `export`.
        """
        from effvision.export import export_kit, export_triton
        from effvision.export.targets import SERVER

        if target == SERVER:
            return export_triton(self, folder, frames=frames, half=half, int8=int8, notify=notify)
        return export_kit(self, target, folder, frames=frames, half=half, int8=int8, notify=notify)

    # -- what a family says ------------------------------------------------------------------------------------------------

    @abstractmethod
    def initial_memory(self, **options: Any) -> Memory:
        """Return the memory of a stream that has seen nothing; `options` are the family's session options."""

    def session_class(self) -> type[Session]:
        """Return the class of this family's sessions: one that has more words than every session, or `Session` itself."""
        from effvision.session import Session

        return Session

    def initial_state(self) -> State:
        """Return the state of one stream that has seen nothing."""
        return self.runtime.initial_state(1)

    def restore_memory(self, data: Mapping[str, Any], **options: Any) -> Memory:
        """Rebuild a memory from plain data saved by `Session.save`."""
        fresh = self.initial_memory(**options)
        return type(fresh).from_dict(data)

    def check_restored(self, memory: Memory, state: State) -> None:  # noqa: B027 - most families have nothing to compare
        """Refuse a saved memory and a saved state that do not belong together.

        Raises:
            StateError: they do not.
        """

    def interrupted(self, inputs: Mapping[str, Any], memory: Memory) -> str | None:
        """Say why this input does not continue the stream (`seek`, `gap`, `source`), or None."""
        return None

    @abstractmethod
    def prepare(self, inputs: Mapping[str, Any], memory: Memory) -> dict[str, np.ndarray] | None:
        """Check one update's input and make the graph's arrays, batch axis first; None if no step is due."""

    def program(
        self, runtime: Runtime, arrays: Mapping[str, np.ndarray], state: State
    ) -> tuple[dict[str, Array], State]:
        """Run the prepared arrays; by default one step of the graph `step`."""
        return runtime.step(arrays, state)

    def program_many(
        self, runtime: Runtime, arrays: Sequence[Mapping[str, np.ndarray]], states: Sequence[State]
    ) -> list[tuple[dict[str, Array], State]]:
        """Run the prepared arrays of several streams together; by default each is one row of one call of `program`."""
        return program_joined(self, runtime, arrays, states)

    @abstractmethod
    def finish(self, arrays: Mapping[str, Array] | None, memory: Memory) -> tuple[Result, Memory]:
        """Make the result of one update from the graph's outputs; from the last ones if `arrays` is None."""

    def frame_options(self, frame: Any) -> dict[str, Any]:
        """Return what `Session.update` takes from a source's frame besides the picture."""
        return {}

    def example_options(self) -> dict[str, Any]:
        """Return what `session` has to be told to work on the sample and on `example_updates`; nothing for most families."""
        return {}

    @abstractmethod
    def example_inputs(
        self, graph: str, *, steps: int, batch: int, seed: int, frames: Sequence[Any] = ()
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield `steps` inputs of a graph for the export check: random ones, and `frames` or ones that look like real use."""

    def real_inputs(self, source: Any) -> list[Any]:
        """Read the first inputs of a source, for `example_inputs`."""
        with open_source(source) as opened:
            return [frame.image for frame in islice(opened, _CHECKED_FRAMES)]

    def rendered_examples(self, purpose: Literal["calibrate", "judge"]) -> Iterator[tuple[Any, str]] | None:
        """Yield (source, label) pairs rendered like what the weights were trained on; None where nothing here renders such.

        `calibrate` are drawn like training data, `judge` from what training never saw.
        """
        return None

    @abstractmethod
    def example_updates(self, count: int, *, seed: int) -> Iterator[Any]:
        """Yield `count` inputs of `Session.update` that look like real use, for tests and timing."""

    @classmethod
    @abstractmethod
    def write_sample(cls, path: str | os.PathLike[str], *, card: str, seed: int = 0) -> Path:
        """Generate a sample input file that the card's model has an answer for."""
