"""SIGE from a label map, and then from every edit of it, to the picture it stands for. Needs no torch at import.

Li, Lin, Meng, Ermon, Han and Zhu, "Efficient Spatially Sparse Inference for Conditional GANs and Diffusion Models",
NeurIPS 2022. Only what an edit changed is computed again (`effvision.incremental`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from effvision._files import sha256
from effvision.cards import Card, get_card
from effvision.edits import Edit
from effvision.errors import InputError, ModelFileError, StateError
from effvision.metadata import Metadata
from effvision.models.sige.answers import LIST_SUFFIX, EditAnswers
from effvision.models.sige.editing import INPUT, Drawn, EditState, check_mask
from effvision.models.sige.encoding import Encoding, distinct_colours, parse_encoding
from effvision.models.sige.label_maps import SUFFIXES, open_label_maps, read_label_map, to_colours
from effvision.models.sige.session import MODES, EditMemory, EditSession, settings_of, told
from effvision.predictor import Memory, Predictor
from effvision.results import Result
from effvision.runtime import Runtime
from effvision.state import Array, State

if TYPE_CHECKING:
    from torch import nn

    from effvision.export import ExportReport, Int8, KitReport
    from effvision.export.precision import Form
    from effvision.runtime.torch import TorchRuntime

__all__ = ["PREDICTOR", "SIGE"]


class SIGE(Predictor):
    """Draw a picture from a label map; edit the map, and only what changed is computed again.

    `session` and `stream` take these options:
        mode: How far a change is followed. `local` (default): each block of the network computes the edit, grown by two pixels
            of its own map, and keeps the rest: fast and approximate. `exact`: everything the edit can reach, equal to a full
            pass up to rounding. `frozen`: likewise, but instance norms keep the statistics of the first picture.
            `reference`: the masks and blocks of the published engine. `session.promise` says it for the session at hand.
        journal_mb: Megabytes that undo and redo may take (default 64); beyond it the oldest steps are forgotten.

    `Session.update(labels, mask=None, check=False)`, `undo`, `redo`, `checkpoint`, `commit`: see
    `effvision.models.sige.session.EditSession`.
    """

    family: ClassVar[str] = "sige"
    sample_suffix: ClassVar[str] = ".png"
    reads: ClassVar[tuple[str, ...]] = (*SUFFIXES, LIST_SUFFIX)
    update_options: ClassVar[frozenset[str]] = frozenset({"mask", "check"})
    takes: ClassVar[Literal["frames", "clouds", "labels"]] = "labels"
    joins: ClassVar[bool] = False
    counts: ClassVar[Literal["stream", "objects", "maps"]] = "maps"

    def __init__(self, runtime: Runtime, metadata: Metadata) -> None:
        """Take a runtime and a description that fit each other; `from_pretrained` makes both.

        Raises:
            ModelFileError: the description lacks what this family needs.
        """
        super().__init__(runtime, metadata)
        try:
            self.encoding: Encoding = parse_encoding(metadata.preprocess, metadata.labels)
        except InputError as error:
            raise ModelFileError(f"the description of this SIGE model is damaged: {error}") from error
        graph = metadata.graphs.get("step")
        shapes = None if graph is None else {tensor.name: tensor.shape[1:] for tensor in graph.inputs}
        if shapes != {INPUT: (self.encoding.channels, *self.encoding.size)}:
            raise ModelFileError(f"the description of this SIGE model is damaged: its inputs are {shapes}")

    @classmethod
    def from_network(
        cls,
        network: nn.Module,
        *,
        labels: Sequence[str],
        size: tuple[int, int],
        colors: Any = None,
        kind: Literal["labels", "scenes", "colors"] = "labels",
        edges: bool = False,
        device: str = "cpu",
    ) -> SIGE:
        """Use a generator of your own in PyTorch, such as one of `effvision.models.sige.convert.from_reference`.

        The network is used itself, not a copy: it is switched to eval mode and moved to `device`.

        Args:
            network: Takes one-hot labels (N, K, H, W) float32, or what `kind` says, and gives (N, 3, H, W) in -1..1.
            labels: K class names, in the order of the network's channels.
            size: (H, W) of the picture.
            colors: (K, 3) RGB 0..255, one a class, all different. Default: told from the names.
            kind: `labels`: one-hot. `colors`: the classes' colours as a picture (N, 3, H, W) in -1..1, as pix2pix takes them.
                `scenes`: one-hot, and the guide of `scenes_guide`.
            edges: Whether the network's last channel is that of edges, as of GauGAN for Cityscapes and COCO; `labels` does not
                name it. They are made from the label map: 1 where a neighbour has another label.
            device: Of PyTorch.

        Raises:
            DTypeError: `network` is no module.
            InputError: a setting is out of range, or the network does not take labels of this size and number.
        """
        from effvision.models.sige.assemble import assemble

        if isinstance(labels, str) or not labels or not all(isinstance(label, str) for label in labels):
            raise InputError(f"`labels` must be class names; got {labels!r:.100}")
        if len(set(labels)) < len(labels):
            twice = next(label for place, label in enumerate(labels) if label in labels[:place])
            raise InputError(f"the class name {twice!r} stands twice in `labels`: every class needs a name of its own")
        table = distinct_colours(labels) if colors is None else colors
        settings = {"kind": kind, "size": size, "colors": np.asarray(table).tolist(), "edges": edges}
        encoding = parse_encoding(settings, tuple(labels))
        return cls(*assemble(network, encoding, device=device))

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        *,
        labels: Sequence[str],
        size: tuple[int, int],
        network: Literal["spade", "resnet", "unet"] = "spade",
        upsampling: Literal["normal", "more", "most"] | None = None,
        colors: Any = None,
        kind: Literal["labels", "colors"] = "labels",
        edges: bool = False,
        device: str = "cpu",
    ) -> SIGE:
        """Use a checkpoint its authors published: GauGAN, or a generator of pix2pix whose input is a label map.

        Args:
            path: Their `.pth`, or a `.safetensors` of the same names; nothing inside is executed.
            labels: As in `from_network`, like `size`, `colors`, `kind`, `edges` and `device`.
            size: As there.
            network: Whose layout it has, see `effvision.models.sige.convert.from_reference`.
            upsampling: Of GauGAN: `more` for Cityscapes (default), `normal` for COCO and ADE20K.
            colors: As there.
            kind: As there; `colors` for pix2pix.
            edges: As there; True for GauGAN of Cityscapes and COCO.
            device: As there.

        Raises:
            CheckpointError: no such file, damaged, unsafe, or of another network.
            InputError: a setting is out of range, or the network does not take labels of this size and number.
        """
        from effvision.checkpoints import read_checkpoint
        from effvision.models.sige.convert import from_reference

        made = from_reference(read_checkpoint(path), network=network, upsampling=upsampling)
        return cls.from_network(made, labels=labels, size=size, colors=colors, kind=kind, edges=edges, device=device)

    @classmethod
    def _from_torch(cls, card: Card, weights: Path | None, *, device: str, seed: int = 0) -> SIGE:
        from effvision.models.sige.assemble import assemble, card_network

        parts = assemble(
            card_network(card, weights, seed=seed),
            parse_encoding(card.preprocess, card.labels),
            device=device,
            card=card.name,
            licence=card.licence,
            weights_sha256="" if weights is None else sha256(weights),
        )
        return cls(*parts)

    # -- label maps --------------------------------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of their numbers."""
        return self.encoding.names

    @property
    def palette(self) -> NDArray[np.uint8]:
        """(K, 3) uint8 RGB: the colour that stands for each class in a label map saved as a picture; a copy."""
        return self.encoding.colours.copy()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of label map and picture."""
        return self.encoding.size

    def read(self, labels: Any) -> NDArray[np.uint8]:
        """Return a label map (H, W) uint8 from anything `update` takes; errors as there."""
        return read_label_map(labels, self.encoding.names, self.encoding.colours, self.encoding.size)

    def coloured(self, labels: Any) -> NDArray[np.uint8]:
        """Return the picture (H, W, 3) uint8 RGB of a label map in the colours of the palette; `read` takes it back as .png."""
        return to_colours(self.read(labels), self.encoding.colours)

    # -- using it ----------------------------------------------------------------------------------------------------------

    def predict(self, inputs: Any) -> Edit:
        """Draw the picture of one label map: one update of a fresh session.

        Raises:
            InputError: the label map cannot be used.
            SourceError: a file that cannot be read.
        """
        return self.session().update(inputs)

    def for_files(self, *, mode: str = "local") -> EditAnswers:
        """Return what draws one label map, or list of edits, after the other; see `effvision.models.sige.answers`."""
        return EditAnswers(self, mode=mode)

    def session(self, path: str | os.PathLike[str] | None = None, **options: Any) -> EditSession:
        """Open a session: one picture and what is kept of it; the weights are shared.

        Args:
            path: A file written by `EditSession.save`, to go on from there: the picture and all that is kept of it, bit for
                bit. Steps that could be undone are not saved.
            **options: `mode` and `journal_mb`, see the class; not with `path`: a saved session keeps its own.

        Raises:
            InputError: an option is out of range.
            StateError: the file is damaged, or of another model or runtime.
        """
        return cast(EditSession, super().session(path, **options))

    def stream(self, source: Any, *, images: bool = True, **options: Any) -> Iterator[Result]:
        """Return an iterator with one result per label map of a source, each compared with the one before.

        Args:
            source: A folder of `.png` and `.npy` files, sorted naturally; a pattern; a file; an array (H, W) or (T, H, W); an
                iterable of label maps. See `effvision.models.sige.label_maps.open_label_maps`.
            images: Keep the label map in `result.labels`.
            **options: `mode` and `journal_mb`.

        Raises:
            SourceError: nothing is there, or no file of label maps among it.
        """
        session = self.session(**options)
        maps = open_label_maps(source)

        def results() -> Iterator[Result]:
            for labels in maps:
                result = session.update(labels)
                yield result if images else result.replace(labels=None)

        return results()

    # -- the template ------------------------------------------------------------------------------------------------------

    def session_class(self) -> type[EditSession]:
        """Sessions of edits."""
        return EditSession

    def initial_memory(  # type: ignore[override]  # named options instead of the template's **options
        self, *, mode: str = "local", journal_mb: float = 64.0
    ) -> EditMemory:
        """Return the memory of a session without a picture; options as in the class's description.

        Raises:
            InputError: an option is out of range.
        """
        mode, journal_mb = settings_of(mode, journal_mb)
        return EditMemory(mode=mode, journal_mb=journal_mb)

    def initial_state(self) -> State:
        """Return the state of a session without a picture: nothing."""
        return State()

    def restore_memory(self, data: Mapping[str, Any], **options: Any) -> EditMemory:
        """Rebuild a saved memory; options given anew are not taken, a saved session keeps its own."""
        if options:
            raise InputError(f"a saved session keeps its own options; leave out {', '.join(sorted(options))}")
        return EditMemory.from_dict(data)

    def check_restored(self, memory: Memory, state: State) -> None:
        """Refuse a saved memory and state of which only one knows a picture; the maps are compared when they are taken up."""
        if bool(memory.updates) != bool(len(state)):
            raise StateError(
                f"the saved memory counts {memory.updates} updates, and the saved state holds {len(state)} arrays\n"
                "hint: the file is damaged or was put together from two; begin a new session"
            )

    def opened(self, memory: EditMemory, state: State) -> EditState:
        """Return a state that can be edited: itself if it is one, else an editor's that takes up its arrays.

        Raises:
            StateError: arrays of another network, engine or mode.
        """
        if isinstance(state, EditState):
            return state
        editor = self.runtime.editor(mode=memory.mode, journal_bytes=int(memory.journal_mb * 1e6))
        made = EditState(editor, self.encoding)
        made.take_up(state)
        return made

    def prepare(self, inputs: Mapping[str, Any], memory: Memory) -> dict[str, np.ndarray]:
        """Read and check the label map and the mask."""
        held = cast(EditMemory, memory)
        check = inputs.get("check", False)
        if not isinstance(check, (bool, np.bool_)):
            raise InputError(f"`check` must be True or False; got {check!r:.60}")
        arrays = {
            "labels": self.read(inputs["x"]),
            "check": np.array(bool(check)),
            "mode": np.array(MODES.index(held.mode)),
            "journal_mb": np.array(held.journal_mb),
        }
        if inputs.get("mask") is not None:
            arrays["mask"] = check_mask(inputs["mask"], self.encoding.size)
        return arrays

    def program(
        self, runtime: Runtime, arrays: Mapping[str, np.ndarray], state: State
    ) -> tuple[dict[str, Array], State]:
        """Draw the label map in the state's editor; the state is overwritten and given back."""
        memory = EditMemory(mode=MODES[int(arrays["mode"])], journal_mb=float(arrays["journal_mb"]))
        picture = self.opened(memory, state)
        drawn = picture.draw(arrays["labels"], arrays.get("mask"), check=bool(arrays["check"]))
        outputs: dict[str, Array] = dict(vars(drawn))
        return outputs, picture

    def finish(self, arrays: Mapping[str, Array] | None, memory: Memory) -> tuple[Edit, Memory]:
        """Make the result."""
        return told(Drawn(**cast(Mapping[str, Any], arrays))), memory

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
        blocks: bool = True,
    ) -> ExportReport:
        """Write one ONNX file that edits without PyTorch, after checking it against PyTorch over edits with undo and redo.

        Args:
            path: A name ending in `.onnx` in a folder that exists; replaced only when the check has passed.
            batch: 1 or `dynamic`, which say the same: a file edits one picture at a time. With `blocks=False` as elsewhere.
            opset: 13 to 20.
            steps: Edits that are checked, 16 or more.
            frames: Label maps of yours for the check (a folder, a list), in order. Default: generated ones.
            half: Only with `blocks=False`; see `Predictor.export`.
            int8: Likewise.
            notify: Told in a few words what is going on.
            blocks: False writes the network as one graph from label map to picture, which computes everything for every edit:
                for other programs, and for networks that cannot be cut into blocks.

        Raises:
            ExportError: an operation has no form for parts of pictures (all are named), or the file would differ from PyTorch.
                No file is left.
            InputError: an argument is out of range.
            MissingDependencyError: torch, onnx or onnxruntime is not installed.
        """
        if not blocks:
            return super().export(
                path, batch=batch, opset=opset, steps=steps, frames=frames, half=half, int8=int8, notify=notify
            )
        if half or int8 is not None:
            raise InputError(
                "a file that edits computes in float32\nhint: blocks=False writes the whole network, in half too"
            )
        if batch not in (1, "dynamic") or isinstance(batch, bool):
            raise InputError(
                f"a file that edits holds one picture at a time; got batch={batch!r:.60}\nhint: leave `batch` out"
            )
        self._check_torch()
        from effvision.export.edits import export_edits

        spec = self.metadata.graphs["step"]
        maps = [] if frames is None else self.real_inputs(frames)
        pictures = ((self.encoding.array(labels),) for labels in (*maps, *self.example_updates(steps + 1, seed=0)))
        network = cast("TorchRuntime", self.runtime).modules["step"]
        return export_edits(network, self.metadata, spec, pictures, path, opset=opset, steps=steps)

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
        """Refuse: there is no program for a device that keeps a picture's maps and journal yet.

        Raises:
            InputError: always; `export` writes one file.
        """
        raise InputError(
            "there is no kit of models that edit pictures yet\nhint: `export` writes one file, which effvision[onnx] runs"
        )

    # -- examples ----------------------------------------------------------------------------------------------------------

    def real_inputs(self, source: Any) -> list[NDArray[np.uint8]]:
        """Read the first label maps of a source, for `example_inputs`."""
        return [self.read(labels) for labels in islice(open_label_maps(source), 16)]

    def example_inputs(
        self, graph: str, *, steps: int, batch: int, seed: int, frames: Sequence[Any] = ()
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield label maps as the graph takes them, generated or from `frames`, and in turn patches of noise."""
        rng = np.random.default_rng([seed, batch])
        maps = [self.read(labels) for labels in frames] or list(self.example_updates(4, seed=seed))
        height, width = self.encoding.size
        for step in range(steps):
            each = []
            for place in range(batch):
                labels = maps[(step + place) % len(maps)]
                if step % 2:
                    cells = rng.integers(0, len(self.encoding.names), (-(-height // 8), -(-width // 8)), np.uint8)
                    labels = cells.repeat(8, 0).repeat(8, 1)[:height, :width]
                each.append(self.encoding.array(labels))
            yield {INPUT: np.concatenate(each)}

    def example_updates(self, count: int, *, seed: int) -> Iterator[NDArray[np.uint8]]:
        """Yield a label map and edits of it, as somebody paints."""
        from effvision.models.sige.sample import edits

        yield from edits(self.encoding, count, seed=seed)

    @classmethod
    def write_sample(cls, path: str | os.PathLike[str], *, card: str, seed: int = 0) -> Path:
        """Write a generated label map: `.png` in the colours of the card's classes, or `.npy`."""
        from effvision.models.sige.sample import write_sample

        chosen = get_card(card)
        return write_sample(path, parse_encoding(chosen.preprocess, chosen.labels), seed=seed)


PREDICTOR = SIGE
