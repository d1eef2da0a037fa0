"""Sparse convolution: MinkUNet on a real LiDAR scan, its layers against spconv, and sizes from 1k to 1M voxels.

Network: MinkUNet, width 0.5, 19 classes, with seeded random weights: for timing only. Input: the one scan of SemanticKITTI's
sample in voxels of 5 cm (94,625 of them), else a generated scan.

    spconv_over_ours    spconv's CPU build over ours, all 34 submanifold 3x3x3 layers, kernel maps given to both
    worst_layer         the least of those ratios over the kinds of layers
    floor_ratio         the whole network, maps included, over the multiply-adds of its pairs at the machine's limit
    map_share           making all kernel maps, over the whole network
    growth_mb           memory that one call of the network adds at its peak, in a process of its own
    baseline_over_ours  the same network as torchsparse 1.4 runs it on a CPU (`baselines/minkunet.py`) over ours
    ours_differs        largest difference of ours from that baseline, as a share of the largest logit

spconv runs in an environment of its own (`make rivals`), in turns with ours; without it its keys are left out. One of its
layers is compared with ours first (`spconv_differs`), on one thread: on two, spconv 2.3.8 gives wrong sums in some rows, which
the details tell (`spconv_differs_2_threads`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import (
    GEMM,
    THREADS,
    Contender,
    DataFile,
    Figure,
    Times,
    floor_ratio,
    gemm,
    gemm_rate,
    in_fresh_process,
    interleave,
    main,
    peak_mb,
    resident_mb,
    use_threads,
)
from baselines.minkunet import PlainMinkUNet
from torch import Tensor

from effvision.host.sparse import pack, unpack
from effvision.host.sparse_levels import build_levels
from effvision.models.minkunet.layers import SparseConv
from effvision.models.minkunet.maps import Convolves, Maps, build_maps
from effvision.models.minkunet.network import MinkUNet
from effvision.ops.folding import fuse
from effvision.ops.sparse_conv import KernelMap, convolve

RIVALS = Path(__file__).resolve().parents[1] / ".venv-rivals" / "bin" / "python"
SCAN = DataFile(
    "semantickitti/000000.bin",
    "https://github.com/mit-han-lab/spvnas, assets/000000.bin",
    "92e945f37a6cd4a58acc8aa15b275af2e271ecf69c0a44a311d888524473c451",
)
WIDTH, VOXEL_M = 0.5, 0.05
# level, input and output channels of the 34 submanifold 3x3x3 layers at width 0.5, and how many of each
LAYERS = (
    (0, 4, 16, 1), (0, 16, 16, 1), (1, 16, 16, 4), (2, 16, 32, 1), (2, 32, 32, 3), (3, 32, 64, 1), (3, 64, 64, 3),
    (4, 64, 128, 1), (4, 128, 128, 3), (3, 192, 128, 1), (3, 128, 128, 3), (2, 96, 64, 1), (2, 64, 64, 3),
    (1, 64, 48, 1), (1, 48, 48, 3), (0, 64, 48, 1), (0, 48, 48, 3),
)  # fmt: skip


@dataclass(frozen=True)
class Effort:
    """How often everything is repeated, and on how many voxels."""

    rounds: int
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    most: int = 10_000_000
    smoke: bool = False

    @staticmethod
    def of(options: argparse.Namespace) -> Effort:
        """Choose by --smoke and --quick; every key is of the whole scan, but for a smoke run."""
        if options.smoke:
            return Effort(rounds=1, sizes=(500,), most=1500, smoke=True)
        return Effort(rounds=5) if options.quick else Effort(rounds=20)


# -- input -----------------------------------------------------------------------------------------------------------------


def voxels_of(points: np.ndarray) -> tuple[Tensor, Tensor]:
    """(P, 4) x y z remission -> coords (V, 4), feats (V, 4), as the published preparation makes them."""
    places = np.round(points[:, :3] / np.float32(VOXEL_M)).astype(np.int32)
    places -= places.min(axis=0)
    coords, first = np.unique(places, axis=0, return_index=True)
    batch = np.zeros((len(coords), 1), np.int32)
    return torch.from_numpy(np.concatenate([coords, batch], axis=1)), torch.from_numpy(points[first])


def generated_scan(voxels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A street as a spinning lidar sees it, the points thinner with distance: ground, walls, posts and cars."""
    rng = np.random.default_rng(seed)
    made: list[np.ndarray] = []
    while True:
        count = max(4096, 2 * voxels)
        reach = np.sqrt(rng.uniform(0, 1, count)) * (2 + 0.1 * np.sqrt(voxels))
        angle = rng.uniform(0, 2 * np.pi, count)
        x, y, z = reach * np.cos(angle), reach * np.sin(angle), rng.normal(-1.7, 0.01, count)
        wall = rng.uniform(size=count) < 0.35
        y[wall] = np.sign(y[wall]) * (8 + np.floor(np.abs(x[wall]) / 15) % 3)
        z[wall] = rng.uniform(-1.7, 4, wall.sum())
        car = ~wall & (rng.uniform(size=count) < 0.15)
        x[car] = np.round(x[car] / 7) * 7 + rng.choice([-0.9, 0.9], car.sum())
        z[car] = rng.uniform(-1.7, -0.2, car.sum())
        made.append(np.stack([x, y, z, rng.uniform(0, 1, count)], axis=1).astype(np.float32))
        coords, feats = voxels_of(np.concatenate(made))
        if len(coords) >= voxels:
            middle = coords[:, :2].float().mean(0)
            near = (coords[:, :2] - middle).abs().amax(1).argsort(stable=True)[:voxels].sort().values
            return coords[near], feats[near]


def network() -> MinkUNet:
    """Seeded weights, folded."""
    torch.manual_seed(0)
    made = MinkUNet(width=WIDTH, voxel_size_m=VOXEL_M).eval()
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_var.uniform_(0.3, 0.6)
            layer.weight.data.uniform_(0.8, 1.2)
            layer.bias.data.normal_(std=0.1)
    return made


# -- counting --------------------------------------------------------------------------------------------------------------


class Counting:
    """A kernel map that counts the multiply-adds of the convolutions that pass through it."""

    def __init__(self, kernel_map: KernelMap, total: list[int]) -> None:
        self.kernel_map, self.total = kernel_map, total

    @property
    def turned(self) -> Counting:
        return Counting(self.kernel_map.turned, self.total)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
        self.total[0] += self.kernel_map.count * weight.shape[1] * weight.shape[2]
        return self.kernel_map.convolve(x, weight, bias, residual, relu)


def multiply_adds(made: MinkUNet, coords: Tensor, feats: Tensor) -> int:
    """Pairs times weights of every sparse layer, rows times weights of every other."""
    total = [0]
    maps = build_maps(pack(coords.numpy()), None, feats.device)
    near, down = ([Counting(one, total) for one in side] for side in (maps.near, maps.down))

    def count(layer: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(layer, torch.nn.Linear) or layer.kernel.ndim == 2:
            weight = layer.weight if isinstance(layer, torch.nn.Linear) else layer.kernel
            total[0] += len(output) * weight.numel()

    layers = [layer for layer in made.modules() if isinstance(layer, (SparseConv, torch.nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    made.run(feats, Maps(near, down))
    for hook in hooks:
        hook.remove()
    return total[0]


# -- against spconv --------------------------------------------------------------------------------------------------------


class Rival:
    """spconv in its own environment."""

    def __init__(self, levels: list[np.ndarray], folder: Path) -> None:
        np.savez(folder / "levels.npz", **{f"coords_{at}": coords for at, coords in enumerate(levels)})
        script = Path(__file__).parent / "rivals" / "spconv_layers.py"
        words = [str(RIVALS), str(script), str(folder / "levels.npz")]
        self.folder = folder
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._line()["spconv"]

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Send one line; return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        self._process.communicate()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())  # type: ignore[no-any-return]


def layer_times(coords: Tensor, effort: Effort) -> tuple[list[Figure], dict[str, Any]]:
    """Each kind of layer, ours and spconv's in turns."""
    levels = build_levels(pack(coords.numpy()))
    maps = [KernelMap.of(pairs) for pairs in levels.near]
    if not RIVALS.is_file() or effort.smoke:
        print("spconv is left out: `make rivals` installs it")
        return [], {"layers": _ours_alone(maps, effort)}
    with tempfile.TemporaryDirectory() as folder:
        rival = Rival([unpack(keys)[:, :3] - unpack(keys)[:, :3].min(axis=0) for keys in levels.keys], Path(folder))
        differs, raced = (_same_layer(rival, maps[2], threads) for threads in (1, THREADS))
        told, ours_ms, theirs_ms, worst = {}, 0.0, 0.0, float("inf")
        for level, inputs, outputs, count in LAYERS:
            run = _layer(maps[level], inputs, outputs)
            pairs = []
            for _ in range(effort.rounds):
                theirs = rival.ask(level=level, inputs=inputs, outputs=outputs, repeats=3)
                pairs.append((_median_ms(run), theirs["cached_ms"]))
            mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            ours_ms, theirs_ms, worst = ours_ms + count * mine, theirs_ms + count * other, min(worst, ratio)
            told[f"stride {1 << level}, {inputs}->{outputs}, {count}"] = {"ours_ms": mine, "spconv_ms": other}
        rival.close()
    figures = [
        Figure(
            "spconv_over_ours", theirs_ms / ours_ms, (">=", 2.0), f"34 layers 3x3x3, spconv {rival.version} on the CPU"
        ),
        Figure("worst_layer", worst, (">=", 1.1), "the least of the kinds of layers"),
        Figure("spconv_differs", differs, ("<=", 1e-4), "one layer of it on one thread, from ours"),
    ]
    return figures, {"layers": told, f"spconv_differs_{THREADS}_threads": raced}


def _layer(kernel_map: KernelMap, inputs: int, outputs: int) -> Any:
    x, weight = torch.randn(kernel_map.inputs, inputs), torch.randn(27, inputs, outputs)
    return lambda: convolve(x, weight, kernel_map)


def _median_ms(run: Any) -> float:
    times = []
    for index in range(4):
        started = time.perf_counter()
        run()
        if index:
            times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def _ours_alone(maps: list[KernelMap], effort: Effort) -> dict[str, Any]:
    return {
        f"stride {1 << level}, {inputs}->{outputs}, {count}": {
            "ours_ms": _median_ms(_layer(maps[level], inputs, outputs))
        }
        for level, inputs, outputs, count in LAYERS
    }


def _same_layer(rival: Rival, kernel_map: KernelMap, threads: int) -> float:
    """Largest difference of a layer, of the largest output. spconv 2.3.8 on several threads loses sums now and then."""
    x, weight = torch.randn(kernel_map.inputs, 8), torch.randn(27, 8, 8)
    np.savez(rival.folder / "check.npz", x=x.numpy(), weight=weight.numpy())
    rival.ask(level=2, check=str(rival.folder / "check.npz"), threads=threads, out=str(rival.folder / "out.npy"))
    ours, theirs = convolve(x, weight, kernel_map), torch.from_numpy(np.load(rival.folder / "out.npy"))
    return float((ours - theirs).abs().max() / ours.abs().max())


# -- the whole network -----------------------------------------------------------------------------------------------------


def all_maps(coords: Tensor) -> None:
    """Everything about maps that a call makes: searched, and cut into parts for the CPU."""
    maps = build_maps(pack(coords.numpy()), None, torch.device("cpu"))
    for one in (*maps.near, *maps.down, *(below.turned for below in maps.down)):
        _parts(one)


def _parts(kernel_map: Convolves) -> None:
    assert isinstance(kernel_map, KernelMap)
    _ = kernel_map.parts


def grown_mb(data: Path | None, voxels: int) -> float:
    """Largest memory during one call of the network, less what was there before it; the libraries are warm."""
    use_threads()
    torch.set_grad_enabled(False)
    made = fuse(network())
    made(*generated_scan(200))
    coords, feats = _scan(data, voxels)
    before = resident_mb()
    made(coords, feats)
    return peak_mb() - before


def curve(made: MinkUNet, effort: Effort) -> dict[str, Any]:
    """Milliseconds and distance from the machine's limit over the number of voxels."""
    found = {}
    for voxels in effort.sizes:
        coords, feats = generated_scan(voxels)
        work = multiply_adds(made, coords, feats)
        rounds = 1 if voxels > 300_000 else 3
        times = interleave({"ours": Contender(lambda c=coords, f=feats: made(c, f), 1), GEMM: gemm()}, rounds=rounds)
        found[f"{voxels} voxels"] = {
            "ms": round(1e3 * times.median_s("ours"), 1),
            "floor_ratio": round(floor_ratio(times, "ours", work), 2),
            "pairs_per_voxel": round(KernelMap.of(build_levels(pack(coords.numpy()), 0).near[0]).count / voxels, 2),
        }
    return found


def whole(made: MinkUNet, plain: PlainMinkUNet, coords: Tensor, feats: Tensor, effort: Effort) -> Times:
    """The network, its maps and the baseline, beside the machine's limit."""
    contenders = {
        "ours": Contender(lambda: made(coords, feats), 1),
        "maps": Contender(lambda: all_maps(coords), 1),
        "baseline": Contender(lambda: plain(coords[:, :3], feats), 1, settle=0),
        GEMM: gemm(),
    }
    return interleave(contenders, rounds=effort.rounds)


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Run everything; return the figures and what they were made from."""
    effort = Effort.of(options)
    found = SCAN.find(options.data)
    end = "" if found is not None else "_synthetic"
    coords, feats = _scan(found, effort.most)
    slow = network()
    made, plain = fuse(slow), PlainMinkUNet(width=WIDTH).eval()
    _copy(slow, plain)
    ours, other = made(coords, feats), plain(coords[:, :3], feats)
    differs = float((ours - other).abs().max() / other.abs().max())
    work = multiply_adds(made, coords, feats)
    times = whole(made, plain, coords, feats, effort)
    layers, told = layer_times(coords, effort)
    figures = [Figure(f"{one.key}{end}", one.value, one.limit, one.note) for one in layers]
    grown = in_fresh_process(grown_mb, found, effort.most)
    figures += [
        Figure(f"floor_ratio{end}", floor_ratio(times, "ours", work), ("<=", 2.3), "whole network, maps included"),
        Figure(f"map_share{end}", times.ratio("maps", "ours"), ("<=", 0.10), "all kernel maps over the whole network"),
        Figure(f"growth_mb{end}", grown, ("<=", 300.0), "at the peak of one call"),
        Figure(f"baseline_over_ours{end}", times.ratio("baseline", "ours"), None, "as torchsparse 1.4 runs on a CPU"),
        Figure("ours_differs", differs, ("<=", 1e-4), "from the baseline, of its largest logit"),
    ]
    return figures, {
        "voxels": len(coords),
        "multiply_adds": work,
        "gemm_gflops": round(gemm_rate(times) / 1e9, 1),
        "network_ms": times.to_dict(),
        **told,
        **curve(made, effort),
    }


def _scan(path: Path | None, most: int) -> tuple[Tensor, Tensor]:
    if path is None:
        return generated_scan(min(most, 94_625))
    coords, feats = voxels_of(np.fromfile(path, np.float32).reshape(-1, 4))
    return coords[:most], feats[:most]


def _copy(source: MinkUNet, target: PlainMinkUNet) -> None:
    """Fill the baseline with the weights of the same layers in the same order; ours has more, for the branch of points."""
    ours = [(name, value) for name, value in source.state_dict().items() if not name.startswith("point_transforms")]
    rank = {"stem": 0, "stage": 1, "up": 2, "classifier": 3}
    ours.sort(key=lambda pair: next(value for name, value in rank.items() if pair[0].startswith(name)))
    theirs = target.state_dict()
    pairs = zip(_forward_order(theirs), ours, strict=True)
    target.load_state_dict({name: value.view(theirs[name].shape) for name, (_, value) in pairs})


def _forward_order(names: Any) -> list[str]:
    """Names of the baseline's tensors in the order of ours: each level's convolution, then its blocks."""

    def place(name: str) -> tuple[int, int, int]:
        part, *rest = name.split(".")
        group = {"stem": 0, "down": 1, "down_blocks": 1, "up": 2, "up_blocks": 2, "classifier": 3}[part]
        return group, int(rest[0]) if group in (1, 2) else 0, int(part.endswith("blocks"))

    return sorted(names, key=place)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    raise SystemExit(main(measure, __doc__ or ""))
