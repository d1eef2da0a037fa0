"""Held-out accuracy of the motion weights: what ships is what is measured (fp16 file, streaming state, per-frame logits)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from effvision.errors import CheckpointError
from effvision.models.tsm.clips import LABELS, opposite
from effvision.models.tsm.convert import canonical_keys, load_weights
from effvision.models.tsm.network import Direction, TemporalNetwork
from effvision.models.tsm.recipe_data import labelled_clips
from effvision.models.tsm.recipe_train import motion_network, normalised

__all__ = ["VALIDATION_SEED", "Report", "evaluate", "load_motion", "measure", "wilson"]

VALIDATION_SEED = 20_000
"""Seed of the validation clips. Nothing is selected on them."""


@dataclass(frozen=True)
class Report:
    """What was answered for each true class.

    Attributes:
        confusion: (K, K) counts, rows the true class, columns the answer, in the order of `LABELS`.
        pairs: (K, K) counts like `confusion` where only the true class and its opposite were allowed; empty rows for the
            classes that are their own opposite.
    """

    confusion: NDArray[np.int64]
    pairs: NDArray[np.int64]

    @property
    def accuracy(self) -> tuple[int, int]:
        """Right answers, clips."""
        return int(np.trace(self.confusion)), int(self.confusion.sum())

    @property
    def pair_accuracy(self) -> tuple[int, int]:
        """Right answers where only a class and its opposite are allowed, clips of classes that have an opposite."""
        return int(np.trace(self.pairs)), int(self.pairs.sum())

    def recalls(self) -> dict[str, float]:
        """Share of right answers for each true class."""
        return {
            label: float(row[k] / max(1, row.sum()))
            for k, (label, row) in enumerate(zip(LABELS, self.confusion, strict=True))
        }

    def facts(self) -> dict[str, Any]:
        """Everything as plain numbers, for JSON."""
        right, count = self.accuracy
        low, high = wilson(right, count)
        pair_right, pair_count = self.pair_accuracy
        return {
            "right": right, "clips": count, "accuracy": right / max(1, count), "interval_95": [low, high],
            "opposite_pairs": {"right": pair_right, "clips": pair_count, "accuracy": pair_right / max(1, pair_count)},
            "recall": self.recalls(), "confusion": self.confusion.tolist(),
        }  # fmt: skip

    def __str__(self) -> str:
        right, count = self.accuracy
        low, high = wilson(right, count)
        pair_right, pair_count = self.pair_accuracy
        pair_low, pair_high = wilson(pair_right, pair_count)
        lines = [
            f"accuracy        {right}/{count} = {right / max(1, count):.2%}"
            f"  (95 % Wilson {low:.2%} .. {high:.2%}; chance 10 %)",
            f"opposite pairs  {pair_right}/{pair_count} = {pair_right / max(1, pair_count):.2%}"
            f"  (95 % Wilson {pair_low:.2%} .. {pair_high:.2%}; chance 50 %)",
            f"{'':18}{'right':>7}  " + " ".join(f"{label[:6]:>6}" for label in LABELS) + "   answers",
        ]
        for label, row in zip(LABELS, self.confusion, strict=True):
            lines.append(f"{label:18}{self.recalls()[label]:7.1%}  " + " ".join(f"{number:6d}" for number in row))
        return "\n".join(lines)


def wilson(right: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a share, (low, high); (0, 1) for no trial."""
    if count == 0:
        return 0.0, 1.0
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def load_motion(path: Path, shift: Direction = "causal") -> TemporalNetwork:
    """Load motion weights in eval mode, computing in fp32 with the fp16 numbers of the file.

    Raises:
        CheckpointError: no such file, not safetensors, or weights of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: Mapping[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the weights {path}: {error}") from error
    return load_weights(motion_network(shift), canonical_keys(tensors))


def evaluate(
    network: TemporalNetwork,
    *,
    root: Path | None,
    split: str = "validation",
    clips: int = 2000,
    seed: int = VALIDATION_SEED,
    frames: int = 10,
    warm: int = 0,
) -> Report:
    """Render test clips and classify each by the mean logits of the last half of its frames.

    Args:
        network: In eval mode.
        root: Data folder, or None for procedural pictures.
        split: `validation` or `train` (seen pictures, shapes and textures; other seeds).
        clips: Clips, classes in turn.
        seed: Seed of the clips.
        frames: T of the motion asked for.
        warm: Frames of another motion before it, seen by the network and not counted.
    """
    labelled = labelled_clips(split, clips, root=root, seed=seed, frames=frames, warm=warm)
    return measure(
        network, tqdm(labelled, total=clips, desc=f"evaluate {split}", mininterval=5), last=frames - frames // 2
    )


def measure(network: TemporalNetwork, labelled: Iterable[tuple[NDArray[Any], int]], *, last: int) -> Report:
    """Classify clips (T, H, W, 3) by the mean logits of their `last` frames.

    The network is causal, so the logits of frame t of a whole clip are those of a stream at frame t (`TemporalNetwork.step`).
    """
    confusion, pairs = np.zeros((2, len(LABELS), len(LABELS)), np.int64)
    device = next(network.parameters()).device
    waiting: list[tuple[NDArray[Any], int]] = []

    def answer() -> None:
        pictures = torch.from_numpy(np.stack([clip for clip, _ in waiting])).to(device)
        with torch.inference_mode():
            logits = network.frame_logits(normalised(pictures))[:, -last:].mean(dim=1).cpu().numpy()  # (N, K)
        for scores, (_, true) in zip(logits, waiting, strict=True):
            confusion[true, scores.argmax()] += 1
            other = LABELS.index(opposite(LABELS[true]))
            if other != true:
                pairs[true, true if scores[true] > scores[other] else other] += 1
        waiting.clear()

    for item in labelled:
        waiting.append(item)
        if len(waiting) == 20:
            answer()
    if waiting:
        answer()
    return Report(confusion, pairs)
