"""PVCNN from a cloud of points to a class for each of them. Needs no torch at import.

Liu, Tang, Lin and Han, "Point-Voxel CNN for Efficient 3D Deep Learning", NeurIPS 2019. Scenes of any size go through it
in chunks of a few thousand points, and the answers are joined by votes (`effvision.host.blocks`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
from tqdm import tqdm

from effvision._files import sha256
from effvision.cards import Card, get_card
from effvision.clouds import Cloud
from effvision.errors import InputError
from effvision.host.blocks import Chunk
from effvision.metadata import Metadata
from effvision.models.pvcnn.description import check_description
from effvision.models.pvcnn.inputs import parse_input
from effvision.models.pvcnn.labelling import fed, label
from effvision.runtime import Runtime
from effvision.scans import CloudPredictor
from effvision.sources.clouds import open_cloud
from effvision.state import Array, State

if TYPE_CHECKING:
    from effvision.export import ExportReport, Int8, KitReport, TritonReport
    from effvision.export.precision import Form
    from effvision.models.pvcnn.assemble import Network

__all__ = ["PREDICTOR", "PVCNN"]

GraphForm = Literal["scatter", "tables"]
_FORMS = ("scatter", "tables")
_ON_CPU = 2  # most chunks of one size in one call: 15 % faster than one, and no slower than four (S3DIS, 4096 points)
_TOGETHER = 8  # likewise on a GPU; not measured
_TRIES = 64
_IN_KITS = {
    "EffvisionError": "effvision.errors",
    "answer": "effvision.models.pvcnn.kit",
    "first_call": "effvision.models.pvcnn.kit",
    "open_cloud": "effvision.sources.clouds",
    "parse_input": "effvision.models.pvcnn.inputs",
    "write_ply": "effvision.sources.cloud_writer",
}
_EXAMPLE_POINTS = 300


class PVCNN(CloudPredictor):
    """A class for every point of a cloud: of a scene from the air, of a room, of one object, as the card says.

    `predict`, `session` and `stream` take `seed` and `progress`, see `effvision.scans.CloudPredictor`. `metadata.preprocess`
    says what the network takes; `fields` which fields a cloud must have.
    """

    family: ClassVar[str] = "pvcnn"

    def __init__(self, runtime: Runtime, metadata: Metadata) -> None:
        """Take a runtime and a description that fit each other; `from_pretrained` makes both.

        Raises:
            ModelFileError: the description lacks what this family needs.
        """
        super().__init__(runtime, metadata)
        self.inputs = check_description(metadata)

    @classmethod
    def from_network(
        cls, network: Network, *, labels: Sequence[str], inputs: Mapping[str, Any], device: str = "cpu"
    ) -> PVCNN:
        """Use a network of your own in PyTorch, such as one of `effvision.models.pvcnn.network` or of `convert.from_reference`.

        A fused copy is used; the network itself stays as it is, and what it learns later needs a new PVCNN.

        Args:
            network: (N, C, P) -> logits (N, K, P).
            labels: K class names in the order of its outputs.
            inputs: How a cloud becomes its channels, as in a card's `preprocess`; see `effvision.models.pvcnn.inputs`:
                `{"kind": "object", "points": 2048}` or `{"kind": "scene", "block_m": 25, "points": 2048, "features": [...]}`.
            device: Of PyTorch.

        Raises:
            DTypeError: `network` is none of this family.
            InputError: a setting is out of range, or network, labels and inputs do not fit each other.
        """
        from effvision.models.pvcnn.assemble import assemble, check_network

        if isinstance(labels, str) or not labels or not all(isinstance(label, str) for label in labels):
            raise InputError(f"`labels` must be class names; got {labels!r:.100}")
        kind = parse_input(inputs)
        check_network(network, kind, len(labels))
        return cls(*assemble(network, tuple(labels), kind, device=device))

    @classmethod
    def _from_torch(cls, card: Card, weights: Path | None, *, device: str, seed: int = 0) -> PVCNN:
        from effvision.models.pvcnn.assemble import assemble, card_network

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

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields a cloud must have besides its coordinates."""
        return self.inputs.fields

    @classmethod
    def fields_of(cls, card: Card) -> tuple[str, ...]:
        """Return the fields a cloud must have for a card."""
        return parse_input(card.preprocess).fields

    def prepare_cloud(self, cloud: Cloud) -> dict[str, np.ndarray]:
        """Return `xyz` (P, 3) and what else does not depend on the chunk."""
        cloud.need(self.fields)
        return self.inputs.arrays(cloud)

    def program(
        self, runtime: Runtime, arrays: Mapping[str, np.ndarray], state: State
    ) -> tuple[dict[str, Array], State]:
        """Run the chunks of a cloud and join the answers: `labels` (P,) int32 and `scores` (P,) float32 in 0..1."""

        def run(points: np.ndarray) -> np.ndarray:
            outputs, _ = runtime.step(self.fed(points), State())
            return np.asarray(outputs["logits"])

        with tqdm(unit="chunk", disable=not arrays["progress"][0], leave=False) as bar:

            def tell(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)
                if self.watch is not None:
                    self.watch(done, total)

            labels, scores = label(
                arrays,
                self.inputs,
                run,
                classes=len(self.labels),
                seed=int(arrays["seed"][0]),
                axis=self.metadata.graphs["step"].inputs[0].shape[0],
                together=_ON_CPU if runtime.device == "cpu" else _TOGETHER,
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
        form: GraphForm = "scatter",
    ) -> ExportReport:
        """Write one ONNX file for any number of points; see `Predictor.export`.

        Args:
            path: As there; likewise the others.
            batch: Chunks per call.
            opset: As there.
            steps: As there.
            frames: Clouds of real input for the check (`open_clouds`).
            half: As there.
            int8: Not of point networks.
            notify: As there.
            form: `scatter`: points are averaged in the graph by ScatterElements with reduction, for ONNX Runtime and for
                TensorRT 10 and later. `tables`: the host lists the points of each voxel, and the graph only gathers and sums,
                for older TensorRT, which would overwrite in silence. Both run here alike.

        Raises:
            InputError: a network without such a form, or int8.
        """
        if form not in _FORMS:
            raise InputError(f"`form` must be one of {', '.join(_FORMS)}; got {form!r:.60}")
        if int8 is not None:
            raise InputError("there is no int8 of point networks yet\nhint: leave `int8` out")
        if self.runtime.name == "torch":
            from effvision.models.pvcnn.assemble import check_export, tables_form

            check_export(cast(Any, self.runtime))
            if form == "tables":
                other = type(self)(*tables_form(cast(Any, self.runtime), self.metadata))
                return super(PVCNN, other).export(
                    path, batch=batch, opset=opset, steps=steps, frames=frames, half=half, notify=notify
                )
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

        Arguments as in `Predictor.export_kit`; `frames` are clouds. The form follows from the target's TensorRT.

        Raises:
            InputError: int8, a network without a form for export, or a target with a Python before 3.8.
        """
        from effvision.export.kit_clouds import export_cloud_kit
        from effvision.export.targets import SERVER
        from effvision.export.triton import export_triton
        from effvision.models.pvcnn.assemble import check_export

        if int8 is not None:
            raise InputError("there is no int8 of point networks yet\nhint: leave `int8` out")
        if self.runtime.name == "torch":
            check_export(cast(Any, self.runtime))
        if target == SERVER:
            return export_triton(self, folder, names=_IN_KITS, frames=frames, half=half, notify=notify)
        return export_cloud_kit(
            self, target, folder, names=_IN_KITS, clouds=frames, half=half, notify=notify, forms=("scatter", "tables")
        )

    def example_inputs(
        self, graph: str, *, steps: int, batch: int, seed: int, frames: Sequence[Any] = ()
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield chunks of real or generated clouds in turn with noise, each of another number of points.

        In all of them many points lie in one place, and most voxels are empty.
        """
        rng = np.random.default_rng([seed, batch, steps])
        clouds = [open_cloud(cloud) for cloud in frames] or list(self.example_updates(1, seed=seed))
        made = [self.inputs.arrays(cloud) for cloud in clouds]
        for step in range(steps):
            arrays = made[step // 2 % len(made)]
            for attempt in range(_TRIES):
                count = _EXAMPLE_POINTS + 53 * step + 17 * batch + attempt
                points = self._example(arrays, batch, count, rng) if step % 2 else self._noise(batch, count, rng)
                fed = self.fed(points)
                if all(min(fed[name].shape) > 1 for name in fed if name.startswith(("parts_", "crowded_"))):
                    break  # sizes of 1 would be taken for constants when a graph is traced
            yield fed

    def example_updates(self, count: int, *, seed: int) -> Iterator[Cloud]:
        """Yield small generated clouds: parts of villages, furnished rooms or objects, as the model takes them."""
        from effvision.models.pvcnn.sample import small_sample

        for index in range(count):
            yield small_sample(str(self.inputs.to_dict()["kind"]), seed + index)

    @classmethod
    def write_sample(cls, path: str | os.PathLike[str], *, card: str, seed: int = 0) -> Path:
        """Generate a cloud that the card has an answer for, with its true classes as `label`; a `.ply` file."""
        from effvision.models.pvcnn.sample import write_sample

        return write_sample(path, kind=str(get_card(card).preprocess.get("kind")), seed=seed)

    def fed(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """What the graph takes for points (N, C, P), by the names it declares."""
        return fed(points, [tensor.name for tensor in self.metadata.graphs["step"].inputs], self.metadata.options)

    def _noise(self, batch: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Points (N, C, P) without order, two crowds of them in two places."""
        points = rng.uniform(-0.9, 0.9, (batch, self.inputs.channels, count)).astype(np.float32)
        for crowd in (0, 1):
            first, last = crowd * count // 4, (crowd + 1) * count // 4
            points[:, :3, first:last] = points[:, :3, first : first + 1]
        return points

    def _example(
        self, arrays: Mapping[str, np.ndarray], batch: int, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Points (N, C, P) of one chunk of a cloud, chosen with repetition."""
        chunk = max(self.inputs.chunks(arrays["xyz"], seed=0), key=lambda one: len(one.index))
        picked = [Chunk(rng.choice(chunk.index, count), chunk.low, chunk.block) for _ in range(batch)]
        return np.stack([self.inputs.cut(arrays, one) for one in picked])


PREDICTOR = PVCNN
