"""Point-voxel networks against PointNet and against their own plain form, on this machine.

Network: PVCNN for S3DIS, width 0.25, 9 channels, 13 classes, with seeded random weights: for timing only, its labels mean
nothing. Input: generated 1.5 m blocks of a room (floor, ceiling, wall, furniture), as the S3DIS protocol cuts them; no data is
read. Ours is `fuse(network)` in PyTorch, and the same network in ONNX Runtime with the host's part of the work.

    pointnet_over_pvcnn_N         full-width PointNet, the faster of its two forms, over ours, N points
    baseline_over_ours_4096       the plain form (nn.Conv3d, index_add, eight gathers, nothing folded or shared) over ours
    baseline_vox_devox_over_ours_8192
                                  voxelising and reading the grids, for every layer, without the convolutions
    baseline_over_ort_4096        the plain form over the faster exported form, its host work included
    floor_ratio_8192              ours over the multiply-adds of the network at the machine's limit
    parts_pointnet_over_pvcnn_N   the PointNet trained beside `pvcnn-parts` over its network, both folded
    points_per_s                  `pvcnn-lidarhd` in ONNX Runtime, a generated village of 100,000 points from memory to labels

How large a part of the grid a cloud needs depends on its shape: ours computes the box around the points. The same ratio for a
cloud that fills the grid from end to end (`baseline_over_ours_4096_filled`) is printed beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import (
    GEMM,
    THREADS,
    Contender,
    Figure,
    Times,
    count_multiply_adds,
    floor_ratio,
    gemm,
    gemm_rate,
    interleave,
    main,
)
from baselines.pvcnn import PlainPointNet, PlainPVCNN, PointVoxel, RowPointNet, devoxelise, voxelise
from torch import Tensor, nn

from effvision.host.voxels import graph_arrays
from effvision.models.pvcnn.fusing import fuse
from effvision.models.pvcnn.graphs import PlacedScatterGraph, TableGraph
from effvision.models.pvcnn.layers import CloudPlace, PVConv
from effvision.models.pvcnn.network import PVCNN, s3dis
from effvision.models.pvcnn.predictor import PVCNN as PVCNNPredictor
from effvision.models.pvcnn.recipe_parts_evaluate import TEST_SEED
from effvision.models.pvcnn.recipe_parts_train import NETWORKS, part_network
from effvision.models.pvcnn.shapes import make_cloud
from effvision.models.pvcnn.unit_cloud import unit_cloud
from effvision.sample_scenes import sample_scene

CLASSES, WIDTH = 13, 0.25
Run = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How often everything is repeated, and at which numbers of points."""

    rounds: int
    repeats: int
    few: int = 4096
    middle: int = 8192
    many: int = 32768
    scene_m: float = 118.0

    @staticmethod
    def of(options: argparse.Namespace) -> Effort:
        """Choose by --smoke and --quick; the numbers of points stay those of the keys, but for a smoke run."""
        if options.smoke:
            return Effort(rounds=1, repeats=1, few=64, middle=96, many=128, scene_m=20.0)
        return Effort(rounds=12, repeats=2) if options.quick else Effort(rounds=60, repeats=4)


# -- input -----------------------------------------------------------------------------------------------------------------


def room_block(points: int, seed: int = 0) -> Tensor:
    """A 1.5 m block of a room 3 m high as S3DIS blocks are prepared: (1, 9, P), x and y from the middle, z from the floor."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, points, p=[0.25, 0.2, 0.35, 0.2])
    x, y = rng.uniform(-0.75, 0.75, (2, points))
    z = rng.uniform(0, 3, points)
    z[kind == 0] = rng.normal(0, 0.005, (kind == 0).sum())
    z[kind == 1] = rng.normal(3, 0.005, (kind == 1).sum())
    x[kind == 2] = rng.normal(0.7, 0.005, (kind == 2).sum())
    z[kind == 3] = rng.choice([0.45, 0.75], (kind == 3).sum())  # seats and table tops
    room = np.stack([(x + 3) / 8, (y + 2) / 6, z / 3])
    return torch.from_numpy(np.concatenate([[x, y, z], rng.uniform(0, 1, (3, points)), room])).float()[None]


def filled_block(points: int, seed: int = 0) -> Tensor:
    """The same with points in a ball: along every axis they reach from one end of the grid to the other."""
    block = room_block(points, seed)
    rng = np.random.default_rng(seed)
    way = rng.normal(size=(3, points))
    ball = way / np.linalg.norm(way, axis=0) * rng.uniform(0, 1, points) ** (1 / 3)
    block[0, :3] = torch.from_numpy(ball)
    return block


# -- the networks ----------------------------------------------------------------------------------------------------------


def randomise(network: nn.Module) -> nn.Module:
    """Fill a network with seeded weights whose outputs are of order one."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)):
            module.get_buffer("running_var").uniform_(0.5, 1.5, generator=generator)
        elif isinstance(weight, nn.Parameter):
            weight.data.normal_(0, (2 / weight[0].numel()) ** 0.5, generator=generator)
    return network.eval()


def make_baseline(network: PVCNN) -> PlainPVCNN:
    """Return the plain form with the weights of `network`: the same layers in the same order under other names."""
    baseline = PlainPVCNN(CLASSES, width=WIDTH).eval()
    pairs = zip(baseline.state_dict(), network.state_dict().values(), strict=True)
    baseline.load_state_dict(dict(pairs))
    return baseline


class Exported:
    """One exported form in ONNX Runtime, two threads, with what the host does before each call."""

    def __init__(self, network: PVCNN, form: type[PlacedScatterGraph | TableGraph], example: Tensor) -> None:
        import onnxruntime as ort

        graph = form(network).eval()
        self.names, self.margin = graph.inputs, 1 if form is TableGraph else None
        print(f"exporting {form.__name__}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations in the exporter's own code
            path = Path(folder) / "graph.onnx"
            torch.onnx.export(
                graph,
                tuple(torch.from_numpy(array) for array in self._arrays(torch.cat([example, example]))),
                path,
                dynamo=True,
                opset_version=18,
                input_names=list(self.names),
                output_names=["logits"],
                dynamic_shapes=graph.dynamic_shapes(),
                external_data=False,
                verbose=False,
            )
            options = ort.SessionOptions()
            options.intra_op_num_threads = THREADS
            self.session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    def _arrays(self, points: Tensor) -> list[np.ndarray]:
        return list(graph_arrays(points.numpy(), self.names, margin=self.margin).values())

    def __call__(self, points: Tensor) -> np.ndarray:
        """(N, 9, P) -> (N, K, P)."""
        found = self.session.run(None, dict(zip(self.names, self._arrays(points), strict=True)))
        return found[0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Models:
    """The contenders. All PVCNNs have the same weights."""

    network: PVCNN
    ours: PVCNN
    baseline: PlainPVCNN
    pointnets: dict[str, nn.Module]
    exported: dict[str, Exported]


def make_models(effort: Effort) -> Models:
    """Build and export everything."""
    network = s3dis(CLASSES, width=WIDTH)
    randomise(network)
    example = room_block(effort.few)
    return Models(
        network=network,
        ours=fuse(network),
        baseline=make_baseline(network),
        pointnets={
            "pointnet (convolutions)": randomise(PlainPointNet(CLASSES)),
            "pointnet (linear)": randomise(RowPointNet(CLASSES)),
        },
        exported={
            "ours, ort, scatter": Exported(network, PlacedScatterGraph, example),
            "ours, ort, tables": Exported(network, TableGraph, example),
        },
    )


def disagreement(models: Models, points: Tensor) -> dict[str, float]:
    """Largest difference of a logit from the baseline's, as a share of the largest, in float64 where PyTorch runs it.

    In float32 the baseline may put a point near a border into another voxel than ours does; in float64 none is that near.
    """
    with torch.inference_mode():
        exact = make_baseline(models.network).double()(points.double())
        found = {"ours": fuse(models.network).double()(points.double())}
        found["ours in float32"] = models.ours(points).double()
        found |= {name: torch.from_numpy(model(points)).double() for name, model in models.exported.items()}
    scale = float(exact.abs().max())
    return {name: float((logits - exact).abs().max()) / scale for name, logits in found.items()}


# -- what is timed ---------------------------------------------------------------------------------------------------------


def eager(network: nn.Module, points: Tensor) -> Run:
    """A call under `inference_mode`."""

    def run() -> Tensor:
        with torch.inference_mode():
            return network(points)  # type: ignore[no-any-return]

    return run


def grids_of_baseline(models: Models, points: Tensor) -> Run:
    """The plain form's way into and out of the grids of all layers, at their channels, convolutions left out."""
    layers = [layer for layer in models.baseline.modules() if isinstance(layer, PointVoxel)]
    sizes = [(layer, layer.voxels[0].in_channels, layer.voxels[0].out_channels) for layer in layers]
    features = {channels: torch.randn(1, channels, points.shape[2]) for _, channels, _ in sizes}
    grids = {(layer.resolution, out): torch.randn(1, out, *[layer.resolution] * 3) for layer, _, out in sizes}

    def run() -> None:
        with torch.inference_mode():
            for layer, channels, out in sizes:
                positions = layer.positions(points[:, :3])
                voxelise(features[channels], positions, layer.resolution)
                devoxelise(grids[layer.resolution, out], positions)

    return run


def grids_of_ours(models: Models, points: Tensor) -> Run:
    """The same for ours: plans of the two resolutions, made once a call as in the network, then every layer's way."""
    layers = [layer for layer in models.ours.modules() if isinstance(layer, PVConv)]
    sizes = [(layer, layer.voxel_layers[0].in_channels, layer.channels) for layer in layers]
    features = {channels: torch.randn(1, points.shape[2], channels).transpose(1, 2) for _, channels, _ in sizes}
    memory = torch.channels_last_3d

    def shapes() -> dict[int, tuple[int, int, int]]:
        cloud = CloudPlace(points[:, :3])
        return {layer.resolution: cloud.grid(layer.resolution, unit_ball=True, margin=1).shape for layer in layers}

    sides = shapes()
    grids = {
        (layer.resolution, out): torch.randn(1, out, *sides[layer.resolution]).contiguous(memory_format=memory)
        for layer, _, out in sizes
    }

    def run() -> None:
        with torch.inference_mode():
            cloud = CloudPlace(points[:, :3])
            for layer, channels, out in sizes:
                plan = cloud.grid(layer.resolution, unit_ball=True, margin=1)
                plan.voxelise(features[channels])
                plan.devoxelise(grids[layer.resolution, out])

    return run


def time_networks(models: Models, effort: Effort) -> dict[int, Times]:
    """Time everything side by side, one table for each number of points."""
    found = {}
    for number in (effort.few, effort.middle, effort.many):
        points = room_block(number)
        runs: dict[str, Run] = {"ours": eager(models.ours, points)}
        runs |= {name: eager(network, points) for name, network in models.pointnets.items()}
        runs["baseline"] = eager(models.baseline, points)
        if number == effort.few:
            runs |= {
                name: (lambda model=model, points=points: model(points)) for name, model in models.exported.items()
            }
            filled = filled_block(number)
            runs["ours, filled"] = eager(models.ours, filled)
            runs["baseline, filled"] = eager(models.baseline, filled)
        if number == effort.middle:
            runs["grids of ours"] = grids_of_ours(models, points)
            runs["grids of baseline"] = grids_of_baseline(models, points)
        rounds = max(1, effort.rounds // 3) if number == effort.many else effort.rounds
        contenders = {name: Contender(run, repeats=effort.repeats) for name, run in runs.items()}
        found[number] = interleave({**contenders, GEMM: gemm()}, rounds=rounds)
    return found


def time_parts(effort: Effort) -> dict[int, Times]:
    """Time the two part networks on ten generated objects, one of each category, one after the other; random weights."""
    networks = {name: fuse(randomise(part_network(name))) for name in NETWORKS}
    found = {}
    for number in (effort.few, effort.many):
        clouds = [make_cloud("held-out", index, points=number, seed=TEST_SEED) for index in range(10)]
        points = [torch.from_numpy(np.ascontiguousarray(unit_cloud(cloud.xyz).T)[None]) for cloud in clouds]
        contenders = {name: Contender(in_turn(net, points), repeats=1) for name, net in networks.items()}
        found[number] = interleave(contenders, rounds=max(1, effort.rounds // 2))
    return found


def in_turn(network: nn.Module, clouds: list[Tensor]) -> Run:
    """One cloud after the other."""
    runs = [eager(network, cloud) for cloud in clouds]

    def run() -> None:
        for each in runs:
            each()

    return run


def points_per_s(effort: Effort) -> float:
    """Label a scene as a user would, best of three."""
    model, cloud = PVCNNPredictor.from_pretrained("pvcnn-lidarhd", runtime="onnx"), sample_scene(side_m=effort.scene_m)
    model.predict(sample_scene(side_m=20.0))
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        model.predict(cloud)
        taken.append(time.perf_counter() - started)
    return len(cloud) / min(taken)


def faster(times: Times, names: list[str]) -> str:
    """Name of the contender with the smaller median."""
    return min(names, key=times.median_s)


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Run everything; return the figures and what they were made from."""
    effort = Effort.of(options)
    print("random weights: timing only")
    models = make_models(effort)
    differs = disagreement(models, room_block(effort.few))
    times = time_networks(models, effort)
    parts = time_parts(effort)
    few, middle, many = (times[number] for number in (effort.few, effort.middle, effort.many))
    rivals = list(models.pointnets)
    form = faster(few, list(models.exported))
    work = count_multiply_adds(models.network, lambda: models.network(room_block(effort.middle)))
    nominal = count_multiply_adds(models.baseline, lambda: models.baseline(room_block(effort.middle)))
    figures = [
        Figure(
            "pointnet_over_pvcnn_4096", few.ratio(faster(few, rivals), "ours"), (">=", 1.5), "full PointNet over ours"
        ),
        Figure("pointnet_over_pvcnn_32768", many.ratio(faster(many, rivals), "ours"), (">=", 3.5), "the same"),
        Figure("baseline_over_ours_4096", few.ratio("baseline", "ours"), (">=", 3.0), "plain form over ours, eager"),
        Figure(
            "baseline_vox_devox_over_ours_8192",
            middle.ratio("grids of baseline", "grids of ours"),
            (">=", 4.0),
            "into the grids and out again, all layers",
        ),
        Figure("baseline_over_ort_4096", few.ratio("baseline", form), (">=", 2.0), f"plain form over {form}"),
        Figure(
            "floor_ratio_8192",
            floor_ratio(middle, "ours", nominal),
            note="over the whole grids' work at the machine's limit",
        ),
        Figure(
            "baseline_over_ours_4096_filled",
            few.ratio("baseline, filled", "ours, filled"),
            note="a cloud that fills the grid: no part can be left out",
        ),
        Figure(
            "parts_pointnet_over_pvcnn_4096", parts[effort.few].ratio("pointnet", "pvcnn"), (">=", 1.0), "ten objects"
        ),
        Figure(
            "parts_pointnet_over_pvcnn_32768", parts[effort.many].ratio("pointnet", "pvcnn"), (">=", 1.0), "the same"
        ),
        Figure(
            "ours_differs", max(differs.values()), ("<=", 1e-5), "largest logit difference from the plain form, a share"
        ),
        Figure("points_per_s", points_per_s(effort), note="of a village, all the way"),
    ]
    details: dict[str, Any] = {
        "gemm_gflops": round(gemm_rate(few) / 1e9, 1),
        "multiply_adds_8192": nominal,
        "multiply_adds_8192_left": work,
        "baseline_differs": differs,
        **{f"times_{number}": found.to_dict() for number, found in times.items()},
        **{f"parts_times_{number}": found.to_dict() for number, found in parts.items()},
    }
    return figures, details


if __name__ == "__main__":
    raise SystemExit(main(measure, __doc__ or ""))
