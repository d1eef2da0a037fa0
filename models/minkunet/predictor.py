"""MinkUNet and SPVCNN from a cloud of points to a class for each of them. Needs no torch at import.

Choy, Gwak and Savarese, "4D Spatio-Temporal ConvNets", CVPR 2019; Tang et al., "Searching Efficient 3D Architectures with
Sparse Point-Voxel Convolution", ECCV 2020. A cloud goes through the network as a whole, a very large one in columns that
overlap (`effvision.models.minkunet.labelling`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from tqdm import tqdm

from effvision._files import sha256
from effvision.cards import Card, get_card, list_cards
from effvision.clouds import Cloud
from effvision.errors import CardError, InputError, ModelFileError
from effvision.metadata import Metadata
from effvision.models.minkunet import labelling
from effvision.models.minkunet.description import check_description
from effvision.models.minkunet.inputs import parse_input
from effvision.models.minkunet.labelling import cells_of, fed, label
from effvision.runtime import Runtime
from effvision.scans import CloudPredictor
from effvision.sources.clouds import open_cloud
from effvision.state import Array, State

if TYPE_CHECKING:
    from typing_extensions import Self

    from effvision.export import ExportReport, Int8, KitReport, TritonReport
    from effvision.export.precision import Form
    from effvision.loading import RuntimeName
    from effvision.models.minkunet.network import SparseUNet

__all__ = ["PREDICTOR", "SPVCNN", "MinkUNet", "SparsePredictor"]

_EXAMPLE_ROWS = 20_000
_IN_KITS = {
    "EffvisionError": "effvision.errors",
    "answer": "effvision.models.minkunet.kit",
    "first_call": "effvision.models.minkunet.kit",
    "open_cloud": "effvision.sources.clouds",
    "parse_input": "effvision.models.minkunet.inputs",
    "write_ply": "effvision.sources.cloud_writer",
}


class SparsePredictor(CloudPredictor):
    """A class for every point of a cloud: of a scene from the air or of one turn of a car's lidar, as the card says.

    Call `MinkUNet` or `SPVCNN`; this one makes whichever a card or a file is of. `predict`, `session` and `stream` take
    `progress`, see `effvision.scans.CloudPredictor`; `seed` changes nothing here, for nothing is random.

    Attributes:
        network: Of which network cards and files must be; empty here: either.
    """

    family: ClassVar[str] = "minkunet"
    network: ClassVar[str] = ""

    def __new__(cls, runtime: Runtime, metadata: Metadata) -> SparsePredictor:
        """Make what the description says."""
        made = {one.network: one for one in (MinkUNet, SPVCNN)}.get(str(metadata.options.get("network")), cls)
        return super().__new__(cls if cls.network else made)

    def __init__(self, runtime: Runtime, metadata: Metadata) -> None:
        """Take a runtime and a description that fit each other; `from_pretrained` makes both.

        Raises:
            ModelFileError: the description lacks what this family needs, or is of the other network.
        """
        super().__init__(runtime, metadata)
        self.inputs = check_description(metadata)
        if self.network not in ("", found := str(metadata.options["network"])):
            other = SPVCNN if found == SPVCNN.network else MinkUNet
            raise ModelFileError(
                f"this model is a {other.__name__}, not a {type(self).__name__}\nhint: from effvision import {other.__name__}"
            )

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
        """Load a model; see `Predictor.from_pretrained`. Without a source: this network's card of our own weights."""
        if source is None and cls.network:
            source = next(one.name for one in list_cards(cls.family) if one.network["network"] == cls.network)
        return super().from_pretrained(
            source, card=card, runtime=runtime, device=device, threads=threads, progress=progress
        )

    @classmethod
    def from_network(
        cls, network: SparseUNet, *, labels: Sequence[str], inputs: Mapping[str, Any], device: str = "cpu"
    ) -> Self:
        """Use a network of your own in PyTorch, of `effvision.models.minkunet.network` or `convert.from_reference`.

        A fused copy is used; the network itself stays as it is, and what it learns later needs a new predictor.

        Args:
            network: A MinkUNet or SPVCNN.
            labels: K class names in the order of its outputs.
            inputs: How a cloud becomes rows, as in a card's `preprocess`; see `effvision.models.minkunet.inputs`:
                `{"kind": "scan", "voxel_m": 0.05}` or `{"kind": "scene", "voxel_m": 0.25, "features": [...]}`.
            device: Of PyTorch.

        Raises:
            DTypeError: `network` is none of this family.
            InputError: a setting is out of range, or network, labels and inputs do not fit each other.
        """
        from effvision.models.minkunet.assemble import assemble, check_network
        from effvision.models.minkunet.convert import NETWORKS
        from effvision.models.minkunet.network import SparseUNet

        if isinstance(labels, str) or not labels or not all(isinstance(label, str) for label in labels):
            raise InputError(f"`labels` must be class names; got {labels!r:.100}")
        kind = parse_input(inputs)
        check_network(network, NETWORKS.get(cls.network, SparseUNet), kind, len(labels))
        return cls(*assemble(network, tuple(labels), kind, device=device))

    @classmethod
    def _from_torch(cls, card: Card, weights: Path | None, *, device: str, seed: int = 0) -> Self:
        from effvision.models.minkunet.assemble import assemble, card_network

        if cls.network not in ("", card.network["network"]):
            other = SPVCNN if card.network["network"] == SPVCNN.network else MinkUNet
            raise CardError(
                f"card {card.name!r} is of {other.__name__}, not of {cls.__name__}\n"
                f"hint: from effvision import {other.__name__}"
            )
        kind = parse_input(card.preprocess)
        parts = assemble(
            card_network(card, weights, kind, seed=seed),
            card.class_names,
            kind,
            device=device,
            card=card.name,
            licence=card.licence,
            weights_sha256="" if weights is None else sha256(weights),
        )
        return cls(*parts)

    @classmethod
    def _from_onnx(cls, path: Path, *, device: str, threads: int | None) -> Self:
        made = super()._from_onnx(path, device=device, threads=threads)
        if not isinstance(made, cls):
            other = type(made).__name__
            raise ModelFileError(f"{path} is a {other}, not a {cls.__name__}\nhint: from effvision import {other}")
        return made

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields a cloud must have besides its coordinates."""
        return self.inputs.fields

    @classmethod
    def fields_of(cls, card: Card) -> tuple[str, ...]:
        """Return the fields a cloud must have for a card."""
        return parse_input(card.preprocess).fields

    def prepare_cloud(self, cloud: Cloud) -> dict[str, np.ndarray]:
        """Return `coords` (R, 4), `feats` (R, C) and `inverse` (P,), the row of each point."""
        cloud.need(self.fields)
        return self.inputs.arrays(cloud)

    def program(
        self, runtime: Runtime, arrays: Mapping[str, np.ndarray], state: State
    ) -> tuple[dict[str, Array], State]:
        """Run a cloud, or its columns: `labels` (P,) int32 and `scores` (P,) float32 in 0..1."""

        def run(coords: np.ndarray, feats: np.ndarray) -> np.ndarray:
            outputs, _ = runtime.step(fed(coords, feats, self.metadata.options), State())
            return np.asarray(outputs["logits"])

        rows = len(arrays["coords"])
        with tqdm(total=rows, unit="row", unit_scale=True, disable=not arrays["progress"][0], leave=False) as bar:

            def tell(done: int, total: int) -> None:
                bar.update(done - bar.n)
                if self.watch is not None:
                    self.watch(done, total)

            labels, scores = label(
                arrays,
                run,
                cells=cells_of(self.inputs),
                at_once=labelling.AT_ONCE,
                tell=tell,
            )
        return {"labels": labels, "scores": scores}, state

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
        form: Literal["tables"] = "tables",
    ) -> ExportReport:
        """Write one ONNX file for clouds of any size; see `Predictor.export`. Its kernel maps are inputs, made by the host.

        Args:
            path: As there; likewise the others.
            batch: Says nothing here: rows of several clouds may stand in one call, told apart by their batch.
            opset: As there.
            steps: As there.
            frames: Clouds of real input for the check (`open_clouds`).
            half: As there.
            int8: Not of point networks.
            notify: As there.
            form: `tables`, the only one: a scatter that adds would be wrong or slow in ONNX Runtime, see
                `effvision.host.sparse_graph`.

        Raises:
            InputError: another form, or int8.
        """
        if form != "tables":
            raise InputError(f"sparse networks have one form, `tables`; got {form!r:.60}\nhint: leave `form` out")
        self._refuse_int8(int8)
        return super().export(path, batch=batch, opset=opset, steps=steps, frames=frames, half=half, notify=notify)

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
        """Write a folder that labels clouds on a device with numpy and ONNX Runtime; see `effvision.export.kit_clouds`.

        Arguments as in `Predictor.export_kit`; `frames` are clouds.

        Raises:
            InputError: int8, or a target with TensorRT: sizes of the tables follow from the cloud, so an engine would be built
                anew for every cloud, and none was ever run.
        """
        from effvision.export.kit_clouds import export_cloud_kit
        from effvision.export.targets import SERVER, get_target
        from effvision.export.triton import export_triton

        self._refuse_int8(int8)
        if target == SERVER:
            return export_triton(self, folder, names=_IN_KITS, frames=frames, half=half, notify=notify)
        if (to := get_target(target)).tensorrt is not None:
            raise InputError(
                f"there is no kit of sparse networks for {to.title}: the sizes of a kernel map follow from the cloud, and "
                "TensorRT would build an engine anew for each; we claim nothing for it\n"
                "hint: --target onnx writes a kit for ONNX Runtime, which runs on its processor too"
            )
        return export_cloud_kit(self, to, folder, names=_IN_KITS, clouds=frames, half=half, notify=notify)

    @staticmethod
    def _refuse_int8(int8: object) -> None:
        if int8 is not None:
            raise InputError("there is no int8 of point networks yet\nhint: leave `int8` out")

    def example_inputs(
        self, graph: str, *, steps: int, batch: int, seed: int, frames: Sequence[Any] = ()
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield noise in turn with real or generated clouds, `batch` of them in each.

        The noise has rows of every number of neighbours at every level, and points of one place; in none are two sizes fixed.
        """
        rng = np.random.default_rng([seed, batch, steps])
        clouds = [open_cloud(cloud) for cloud in frames] or list(self.example_updates(2, seed=seed))
        made = [self._some(self.inputs.arrays(cloud)) for cloud in clouds]
        for step in range(steps):
            if step % 2:
                each = [made[(step // 2 + place) % len(made)] for place in range(batch)]
            else:
                each = [self._noise(rng) for _ in range(batch)]
            coords = [np.column_stack([rows[:, :3], np.full(len(rows), place)]) for place, (rows, _) in enumerate(each)]
            feats = np.concatenate([values for _, values in each])
            yield fed(np.concatenate(coords).astype(np.int32), feats, self.metadata.options)

    def example_updates(self, count: int, *, seed: int) -> Iterator[Cloud]:
        """Yield small generated clouds: parts of villages, or streets seen by a lidar, as the model takes them."""
        from effvision.models.minkunet.sample import small_sample

        for index in range(count):
            yield small_sample(str(self.inputs.kind), seed + index)

    @classmethod
    def write_sample(cls, path: str | os.PathLike[str], *, card: str, seed: int = 0) -> Path:
        """Generate a cloud that the card has an answer for, with its true classes as `label`; a `.ply` file."""
        from effvision.models.minkunet.sample import write_sample

        return write_sample(path, kind=str(get_card(card).preprocess.get("kind")), seed=seed)

    def _some(self, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a cloud; of a large one those around its middle."""
        coords, feats = arrays["coords"], arrays["feats"]
        if len(coords) <= _EXAMPLE_ROWS:
            return coords, feats
        away = np.abs(coords[:, :2] - np.median(coords[:, :2], axis=0)).max(axis=1)
        near = np.sort(np.argpartition(away, _EXAMPLE_ROWS)[:_EXAMPLE_ROWS])
        return coords[near], feats[near]

    def _noise(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows in blocks from sparse to solid, on the voxels of each level; with a branch of points some stand twice."""
        blocks, begin = [], 0
        for level in range(5):
            side = cells_of(self.inputs) << level
            for share in (0.03, 0.1, 0.25, 0.5, 1.0):
                grid = np.argwhere(rng.random((5, 5, 5)) < share) * side + rng.integers(0, side)
                blocks.append(grid + np.array([begin, 0, 0]))
                begin += 8 * side
        coords = np.concatenate(blocks)
        if self.network == SPVCNN.network:
            again = [np.repeat(coords[rng.integers(0, len(coords), 30)], count, axis=0) for count in (1, 4, 12, 60)]
            coords = np.concatenate([coords, *again])
        coords = coords[np.lexsort(coords.T[::-1])]
        return coords, rng.standard_normal((len(coords), self.inputs.channels)).astype(np.float32)


class MinkUNet(SparsePredictor):
    """A U-Net of sparse convolutions: rows are voxels; see `SparsePredictor`."""

    network: ClassVar[str] = "minkunet"


class SPVCNN(SparsePredictor):
    """MinkUNet with a branch of points beside it: rows are points, or cells finer than voxels; see `SparsePredictor`."""

    network: ClassVar[str] = "spvcnn"


PREDICTOR = SparsePredictor
