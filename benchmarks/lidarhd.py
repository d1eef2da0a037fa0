"""The three networks for lidar from the air side by side: PVCNN, SPVCNN and MinkUNet with the bundled weights.

From a cloud in memory to a label for every point, preparation included, PyTorch with one thread. Input: the held-out tile of
`pointclouds/lidarhd` (60,072 labelled points), else a generated village.

    pvcnn_over      time of PVCNN over that of the network
    growth_mb       memory that one call adds at its peak, in a process of its own
    miou            mean IoU of the four classes; only of the real tile
    weights_kb      size of the weights file
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import Contender, DataFile, Figure, in_fresh_process, interleave, main, peak_mb, resident_mb
from numpy.typing import NDArray

from effvision.clouds import Cloud
from effvision.models.minkunet.predictor import SPVCNN, MinkUNet
from effvision.models.pvcnn.predictor import PVCNN
from effvision.sample_scenes import sample_scene
from effvision.scans import CloudPredictor
from effvision.sources import open_cloud
from effvision.training_lidar import Label, score_scene

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
MODELS: dict[str, type[CloudPredictor]] = {"pvcnn": PVCNN, "spvcnn": SPVCNN, "minkunet": MinkUNet}
NAMES = tuple(MODELS)
TILE = DataFile(
    "pointclouds/lidarhd/val/village_770550_6277550.npz",
    "https://github.com/IGNF/ign-pdal-tools, test/data",
    "5e11aa1a2a75c54f98045682ff485c9434b0c574131a57dfd51ea140d5a7f125",
    "one LAZ tile with its classes brought to five",
)


def cloud_of(path: Path | None, *, small: bool) -> Cloud:
    """The tile, or a generated village."""
    if path is not None:
        return open_cloud(path)
    return sample_scene(side_m=30.0) if small else sample_scene(points_per_m2=10.0)


def labeller(name: str) -> Label:
    """What labels a cloud: classes and scores, (P,) each."""
    model = MODELS[name].from_pretrained(f"{name}-lidarhd", runtime="torch")

    def label(cloud: Cloud) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        result = model.predict(cloud)
        return result.labels, result.scores

    return label


def grown_mb(name: str, path: Path | None, small: bool) -> float:
    """Largest memory during one call, less what was there before it; the libraries are warm."""
    torch.set_num_threads(1)
    label = labeller(name)
    label(sample_scene(side_m=20.0))
    cloud = cloud_of(path, small=small)
    before = resident_mb()
    label(cloud)
    return peak_mb() - before


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Run everything; return the figures and what they were made from."""
    torch.set_num_threads(1)
    path = TILE.find(options.data)
    end = "" if path is not None else "_synthetic"
    cloud = cloud_of(path, small=options.smoke)
    label = {name: labeller(name) for name in NAMES}
    rounds = 1 if options.smoke else 3 if options.quick else 10
    times = interleave({name: Contender(partial(label[name], cloud), 1, settle=0) for name in NAMES}, rounds=rounds)
    figures = [Figure(f"pvcnn_over{end}", times.ratio("pvcnn", name), None, "time", name) for name in NAMES[1:]]
    for name in NAMES:
        grown = in_fresh_process(grown_mb, name, path, options.smoke)
        figures.append(Figure(f"growth_mb{end}", grown, None, "at the peak of one call", name))
    for name in NAMES:
        kilobytes = (WEIGHTS / f"{name}-lidarhd.safetensors").stat().st_size / 1e3
        figures.append(Figure("weights_kb", kilobytes, None, "fp16", name))
    if path is not None:
        for name in NAMES:
            scores = score_scene(label[name], cloud)
            figures.append(Figure("miou", scores.mean_iou, (">=", 0.72), f"of {scores.points} points", name))
    per = 1e5 / len(cloud)
    return figures, {
        "points": len(cloud),
        "s_per_100k_points": {name: round(times.median_s(name) * per, 2) for name in NAMES},
    }


if __name__ == "__main__":
    raise SystemExit(main(measure, __doc__ or ""))
