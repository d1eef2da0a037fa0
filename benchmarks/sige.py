"""Editing a label map: what changed is computed again, against the whole network, on this machine.

Network: GauGAN, width 64, 36 label channels, 256x512, with seeded random weights and the batch statistics of the first map: for
timing only, its pictures mean nothing. Input: a real edit of a Cityscapes label map that SIGE's authors publish, else a
generated street with a car added; and rectangles of other labels in that map.

    real_edit, edit_1p2, edit_5   the dense network over an update in mode `local`: the published edit, 1.2 % and 5 % of the map
    conv_1 ... conv_30            one 3x3 convolution, 64 to 64 channels, 256x256: dense over an update of so many per cent
    conv_mask                     likewise for the published scattered mask (15.5 %)
    network_over_share            time over the dense network's, over the share of multiply-adds computed: the worst edit
    cache_share                   what `local` keeps, over the result of every convolution
    worst_over_dense              (full) an update over the dense network, the worst from nothing to everything changed
    ours_differs                  the first, full pass of ours from the baseline's, of its largest value

Dense is `baselines/sige.py` in NCHW or in channels-last, whichever is faster; both are told. An edit's speed counts only where
its PSNR to the full recompute is no more than 0.5 dB below that of mode `reference`, which computes what the published engine
does; else the figure is 0 and the speed is among the details.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import GEMM, Contender, DataFile, Figure, Times, gemm, gemm_rate, interleave, main
from baselines.sige import PlainGauGAN
from numpy.typing import NDArray
from torch import Tensor, nn

from effvision.incremental import IncrementalNetwork, ReferenceOptions, make_incremental
from effvision.models.sige.network import SpadeGenerator

_ADDRESS = "https://github.com/lmxyy/sige, "
FILES = {
    name: DataFile(f"sige/{name}.npy", f"{_ADDRESS}{folder}/{name}.npy", sha256)
    for name, folder, sha256 in (
        ("gt_label", "gaugan/assets", "8e0924f968b0767f4692f7529df3491f5f168560c53ac45e1bc8fa797e9c4903"),
        ("gt_instance", "gaugan/assets", "128f4391f0b977ae37854208faff3fece1b6a61965601214f5573f99656071a1"),
        ("synthetic_label", "gaugan/assets", "8a5181ebc515ef283902e7a6cef3bad34b1ef34bdc3712faf0ca49da0ed6d00f"),
        ("synthetic_instance", "gaugan/assets", "24b9c5be7d3e2b0da98b0ded131dd30d7613a490a6ac23d80fba4deea0142afd"),
        ("mask", "assets", "74ec3b3d8b879caef512222906da690f4042708fa8a1c1471438fcc7fe22d766"),
    )
}
CLASSES = 35  # and one channel of edges between instances
EDITS = {"real_edit": 9.0, "edit_1p2": 11.0, "edit_5": 7.0}
CONVOLUTIONS = {"conv_1": 40.0, "conv_5": 12.0, "conv_15": 4.5, "conv_30": 2.3, "conv_mask": 1.2}
ALLOWED_DB = 0.5  # below the published engine's PSNR
DENSE = ("dense NCHW", "dense channels-last")
# From module to module in the order of ours, the baseline's: the words of a key that differ.
RENAMED = (
    ("fc.", "start."), ("conv_img.", "picture."), ("mlp_shared.0.", "shared."), ("conv_0.", "first."),
    ("conv_1.", "second."), ("conv_s.", "shortcut."), ("norm_s.", "norms.2."), ("norm_", "norms."),
    ("param_free_norm.", "normalise."), ("mlp_gamma_beta.", "both."), ("head_0.", "blocks.0."),
    ("G_middle_0.", "blocks.1."), ("G_middle_1.", "blocks.2."), *((f"up_{n}.", f"blocks.{n + 3}.") for n in range(4)),
)  # fmt: skip
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Effort:
    """How often everything is repeated, and how large it is."""

    rounds: int
    worst: bool = False
    width: int = 64
    channels: int = 64
    side: int = 256
    height: int = 256

    @staticmethod
    def of(options: argparse.Namespace) -> Effort:
        """Choose by --smoke and --quick."""
        if options.smoke:
            return Effort(rounds=1, worst=True, width=2, channels=4, side=64, height=128)
        return Effort(rounds=4) if options.quick else Effort(rounds=15, worst=True)


# -- input -----------------------------------------------------------------------------------------------------------------


def network_input(labels: Labels, instances: Labels) -> Tensor:
    """Class and instance numbers (H, W) -> (1, 36, H, W): one channel a class, and the edges between instances."""
    edges = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        differs = np.diff(instances, axis=axis) != 0
        for where in (((0, 1), (0, 0)), ((1, 0), (0, 0))):
            edges |= np.pad(differs, where if axis == 0 else where[::-1])
    channels = np.concatenate([labels[None] == np.arange(CLASSES)[:, None, None], edges[None]])
    return torch.from_numpy(channels.astype(np.float32))[None]


def generated_street(height: int) -> tuple[Labels, Labels]:
    """Sky, houses, trees, pavement, road and cars: classes and instances (height, 2 x height)."""
    rng = np.random.default_rng(0)
    labels = np.full((height, 2 * height), 23, np.int64)
    instances = labels.copy()
    for left in range(0, 2 * height, height // 4):
        top = int(rng.uniform(0.1, 0.45) * height)
        labels[top:, left : left + height // 4] = rng.choice([11, 11, 21])
    labels[int(0.6 * height) :] = 8
    labels[int(0.7 * height) :] = 7
    instances[:] = labels
    for number in range(5):
        add_car(labels, instances, int((0.15 + 0.38 * number) * height), number)
    return labels, instances


def add_car(labels: Labels, instances: Labels, left: int, number: int) -> None:
    """Put one on the road, of about 1 % of the map."""
    height = len(labels)
    rows, columns = slice(int(0.62 * height), int(0.74 * height)), slice(left, left + int(0.16 * height))
    labels[rows, columns], instances[rows, columns] = 26, 26_000 + number


def other_labels(labels: Labels, instances: Labels, share: float) -> Tensor:
    """The map with other classes in one rectangle of a share of it, twice as wide as high at most, right of the middle."""
    height, width = labels.shape
    rows = min(height, max(1, round((share * height * width / 1.25) ** 0.5)))
    columns = min(width, max(1, round(share * height * width / rows)))
    top, left = round(0.6 * (height - rows)), round(0.55 * (width - columns))
    made = labels.copy()
    made[top : top + rows, left : left + columns] = (made[top : top + rows, left : left + columns] + 1) % CLASSES
    return network_input(made, instances)


def label_maps(found: Mapping[str, Path | None], height: int) -> tuple[Labels, Labels, Tensor]:
    """Classes and instances before the edit, and the network's input after it; cut to `height` rows for a smoke run."""
    names = ("gt_label", "gt_instance", "synthetic_label", "synthetic_instance")
    paths = [found[name] for name in names]
    if any(path is None for path in paths):
        labels, instances = generated_street(height)
        after = labels.copy(), instances.copy()
        add_car(*after, int(1.2 * height), 5)
        return labels, instances, network_input(*after)
    maps = [np.load(path, allow_pickle=False).astype(np.int64)[-height:, : 2 * height] for path in paths if path]
    return maps[0], maps[1], network_input(maps[2], maps[3])


def scattered(path: Path | None, side: int) -> NDArray[np.bool_]:
    """The published mask, else strokes of a brush: (side, side), 15.5 % of it."""
    if path is not None:
        mask: NDArray[np.bool_] = np.load(path, allow_pickle=False)
        return mask[:: len(mask) // side, :: len(mask) // side]
    rng, mask = np.random.default_rng(1), np.zeros((side, side), bool)
    while mask.mean() < 0.155:
        place, angle = rng.uniform(0.1, 0.9, 2) * side, rng.uniform(0, 2 * np.pi)
        for step in range(side // 4):
            row, column = (place + 0.8 * step * np.array([np.sin(angle), np.cos(angle)])).astype(int)
            mask[max(row - 2, 0) : max(row + 3, 0), max(column - 2, 0) : max(column + 3, 0)] = True
    return mask


# -- networks --------------------------------------------------------------------------------------------------------------


def generator(width: int, labels: Tensor) -> SpadeGenerator:
    """Seeded weights; the batch norms keep the statistics of these labels, as those of a trained network fit its maps."""
    torch.manual_seed(0)
    made = SpadeGenerator(CLASSES + 1, width=width)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    with torch.no_grad():
        made.conv_img.weight.mul_(0.3)  # so that the picture is not all black and white
        made.train()(labels)
    return made.eval()


def plain(source: SpadeGenerator, memory_format: torch.memory_format) -> PlainGauGAN:
    """The baseline with the same weights."""
    made = PlainGauGAN(source.labels, width=source.width).eval()
    weights = {}
    for key, value in source.state_dict().items():
        for ours, theirs in RENAMED:
            key = key.replace(ours, theirs)
        weights[key] = value
    made.load_state_dict(weights)
    return made.to(memory_format=memory_format)  # type: ignore[call-overload,no-any-return]


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in -1..1; infinite if equal."""
    error = float((found - wanted).square().mean())
    return math.inf if error == 0 else 10 * math.log10(4 / error)


class Toggle:
    """An edit done and taken back in turns, each of them an update."""

    def __init__(self, engine: IncrementalNetwork, before: Tensor, after: Tensor, mask: Any = None) -> None:
        self.engine, self.pictures, self.mask, self.at = engine, (before, after), mask, 0

    def __call__(self) -> None:
        self.at = 1 - self.at
        self.engine.update(self.pictures[self.at], self.mask)


def dense(networks: tuple[nn.Module, nn.Module], x: Tensor, *, settle: int = 0) -> dict[str, Contender]:
    """The network in both layouts, called as the paper's code does."""
    wide = x.contiguous(memory_format=torch.channels_last)

    def runs(network: nn.Module, given: Tensor) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode():
                return network(given)

        return run

    made = zip(DENSE, networks, (x, wide), strict=True)
    return {name: Contender(runs(network, given), 1, settle=settle) for name, network, given in made}


def faster(times: Times) -> str:
    """The layout in which dense is faster."""
    return min(DENSE, key=times.median_s)


# -- one convolution -------------------------------------------------------------------------------------------------------


def convolutions(effort: Effort, mask: NDArray[np.bool_]) -> tuple[dict[str, float], float, dict[str, Any]]:
    """Dense over an update of each mask; the worst update over dense; milliseconds."""
    torch.manual_seed(0)
    side, channels = effort.side, effort.channels
    layer = nn.Conv2d(channels, channels, 3, padding=1).eval()
    x, other = torch.randn(1, channels, side, side), torch.randn(1, channels, side, side)
    masks = {"conv_mask": mask}
    shares = {key: int(key.partition("_")[2]) / 100 for key in CONVOLUTIONS if key != "conv_mask"}
    worst = {f"{share:.0%} changed": share for share in (0.0, 0.5, 0.75, 0.9, 1.0)} if effort.worst else {}
    for key, share in {**shares, **worst}.items():
        rows, columns = (round(side * share**0.5),) * 2
        top, left = round(0.4 * (side - rows)), round(0.3 * (side - columns))
        masks[key] = np.zeros((side, side), bool)
        masks[key][top : top + rows, left : left + columns] = True
    if effort.worst:
        masks["every tenth changed"] = np.random.default_rng(2).random((side, side)) < 0.1
    engine = make_incremental(layer, x, mode="local")
    engine.update(x)
    wide = nn.Conv2d(channels, channels, 3, padding=1).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    wide.load_state_dict(layer.state_dict())
    contenders = dense((layer, wide), x, settle=1)
    for key, changed in masks.items():
        contenders[key] = _edit_of_map(engine, x, other, changed)
    times = interleave(contenders, rounds=2 * effort.rounds)
    ratios = {key: times.ratio(faster(times), key) for key in CONVOLUTIONS}
    slowest = max((times.ratio(key, faster(times)) for key in masks if key not in CONVOLUTIONS), default=0.0)
    return ratios, slowest, times.to_dict()


def _edit_of_map(engine: IncrementalNetwork, x: Tensor, other: Tensor, mask: NDArray[np.bool_]) -> Contender:
    toggle = Toggle(engine, x, torch.where(torch.from_numpy(mask), other, x), mask)
    return Contender(toggle, repeats=5)  # with the untimed call an even number: the next contender starts from `x`


# -- the whole network -----------------------------------------------------------------------------------------------------


def quality(
    network: SpadeGenerator, baseline: nn.Module, before: Tensor, edits: Mapping[str, Tensor], height: int
) -> tuple[IncrementalNetwork, dict[str, dict[str, float]], float, int]:
    """Our engine on `before`; of each edit PSNR and share computed; the first pass off by; bytes of all convolutions."""
    with torch.inference_mode():
        full = {key: baseline(after) for key, after in edits.items()}
        first = baseline(before)
    found: dict[str, dict[str, float]] = {key: {"no update": psnr(first, full[key])} for key in edits}
    # As published for 256x512, five blocks of seven: nothing smaller than 16x32 is computed in parts.
    options = ReferenceOptions(least=(height // 16, height // 8))
    published = make_incremental(network, before, mode="reference", reference=options)
    every = published.report.cache_bytes
    engine = make_incremental(network, before, mode="local")
    off = float((engine.update(before).output - first).abs().max() / first.abs().max())
    for key, after in edits.items():
        for mode, one in (("reference", published), ("local", engine)):
            one.update(before)
            update = one.update(after)
            found[key][mode] = psnr(update.output, full[key])
            found[key][f"computed, {mode}"] = update.computed_fraction
    engine.update(before)
    return engine, found, off, every


def whole(
    effort: Effort, labels: Labels, instances: Labels, after: Tensor, end: str
) -> tuple[list[Figure], dict[str, Any]]:
    """Every figure of the network."""
    before = network_input(labels, instances)
    network = generator(effort.width, before)
    baselines = (plain(network, torch.contiguous_format), plain(network, torch.channels_last))
    edits = {"real_edit": after}
    edits |= {key: other_labels(labels, instances, share) for key, share in (("edit_1p2", 0.012), ("edit_5", 0.05))}
    engine, told, off, every = quality(network, baselines[0], before, edits, len(labels))
    contenders = {**dense(baselines, before), GEMM: gemm()}
    contenders |= {key: Contender(Toggle(engine, before, edited), repeats=3) for key, edited in edits.items()}
    times = interleave(contenders, rounds=effort.rounds)
    rival = faster(times)
    figures, shares = [], []
    for key, limit in EDITS.items():
        speed, here = times.ratio(rival, key), told[key]
        counts = here["local"] >= here["reference"] - ALLOWED_DB
        here["times as fast"] = speed
        here["pixels changed"] = float((edits[key] != before).any(1).float().mean())
        shares.append(times.ratio(key, rival) / here["computed, local"])
        note = f"{rival} over ours, PSNR {here['local']:.1f} dB (reference {here['reference']:.1f})"
        figures.append(Figure(f"{key}{end}", speed if counts else 0.0, (">=", limit), note))
    figures += [
        Figure(
            f"network_over_share{end}", max(shares), ("<=", 1.3), "time's share over the multiply-adds' share, worst"
        ),
        Figure("cache_share", engine.report.cache_bytes / every, ("<", 0.5), "kept, over every convolution's result"),
        Figure("ours_differs", off, ("<=", 1e-4), "the first pass from the baseline's, of its largest value"),
    ]
    report = engine.report
    details = {
        "network": "GauGAN, random weights: timing only",
        "dense_multiply_adds": report.dense_macs,
        "gemm_gflops": round(gemm_rate(times) / 1e9, 1),
        "dense_floor_ratio": times.median_s(rival) * gemm_rate(times) / (2 * report.dense_macs),
        "cache_mb": {"local": report.cache_bytes / 1e6, "convolutions": every / 1e6, "all": report.all_bytes / 1e6},
        "network_ms": times.to_dict(),
        **told,
    }
    if effort.worst:
        worst, details["worst_ms"] = slowest_update(engine, baselines, before, labels, instances, effort)
        figures.append(Figure("worst_over_dense", worst, ("<=", 1.05), "an update over dense, nothing to all changed"))
    return figures, details


def slowest_update(
    engine: IncrementalNetwork,
    baselines: tuple[nn.Module, nn.Module],
    before: Tensor,
    labels: Labels,
    instances: Labels,
    effort: Effort,
) -> tuple[float, dict[str, Any]]:
    """The largest ratio of an update to dense, from no change to every pixel; milliseconds."""
    edits = {f"{share:.0%} changed": other_labels(labels, instances, share) for share in (0.25, 0.5, 0.75, 1.0)}
    edits["0% changed"] = before.clone()
    speckled = np.where(np.random.default_rng(3).random(labels.shape) < 0.02, (labels + 1) % CLASSES, labels)
    edits["2% scattered"] = network_input(speckled, instances)
    contenders = dense(baselines, before)
    contenders |= {key: Contender(Toggle(engine, before, after), repeats=1) for key, after in edits.items()}
    times = interleave(contenders, rounds=max(1, effort.rounds // 3))
    return max(times.ratio(key, faster(times)) for key in edits), times.to_dict()


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Run everything; return the figures and what they were made from."""
    effort = Effort.of(options)
    found = {name: file.find(options.data) for name, file in FILES.items()}
    maps_end = "" if all(found[name] for name in FILES if name != "mask") else "_synthetic"
    figures, details = whole(effort, *label_maps(found, effort.height), maps_end)
    ratios, slowest, times = convolutions(effort, scattered(found["mask"], effort.side))
    mask_end = "" if found["mask"] else "_synthetic"
    for key, limit in CONVOLUTIONS.items():
        end = mask_end if key == "conv_mask" else ""
        figures.append(Figure(f"{key}{end}", ratios[key], (">=", limit), "one 3x3 convolution, dense over an update"))
    if effort.worst:
        figures.append(Figure("worst_over_dense_conv", slowest, ("<=", 1.05), "likewise of one convolution"))
    return figures, {**details, "convolution_ms": times}


if __name__ == "__main__":
    raise SystemExit(main(measure, __doc__ or ""))
