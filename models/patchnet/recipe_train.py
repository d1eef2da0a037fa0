"""Training of `patchnet-synthetic`: 358 numbers from the structural start, on pairs with known answers."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from effvision._files import write_bytes
from effvision.errors import CheckpointError, InputError
from effvision.host.crops import MEAN_RGB
from effvision.models.patchnet.network import CELLS, PATCH, PatchNet
from effvision.models.patchnet.recipe_data import REACH, Pairs, cached_pairs
from effvision.training import follow, keep, kept

__all__ = ["LOSSES", "Settings", "calibrate", "inputs_of", "learning_rate", "pair_loss", "train"]

LOSSES = ("entropy", "center", "boxes")
_WARM = 30  # steps in which the rate rises
_SLOW = 0.1  # share of the rate that numbers about a tenth of the others have
_AFTERWARDS = ("out", "root", "every", "calibrated", "share")  # what the steps do not depend on
_FAST = ("frequencies", "pool2.sharpness", "pool3.sharpness")  # numbers near 1


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        out: Folder of the rendered pairs, the checkpoint and the weights.
        root: The data folder.
        zero_mean: Train the matcher of zero-mean templates.
        loss: One of `LOSSES`.
        steps: Optimiser steps.
        seed: Everything random.
        rate: Highest learning rate of numbers near 1, see `learning_rate`; the others have a tenth of it.
        average: Decay of the moving average of the weights, which is what is written.
        pairs: Pairs of a batch.
        rendered, real: Pairs to train on.
        calibrated: Held-out real pairs that say how far edges are to be believed, see `calibrate`; 0 believes them.
        share: How far the written weights lie from the structural start towards the trained ones. Half-way keeps much of what
            training gains and what the start has on objects that bend and turn (averaging of weights: Wortsman et al., "Robust
            fine-tuning of zero-shot models", CVPR 2022).
        photos: Also train on photos of unclear origin.
        every: Steps between checkpoints.
    """

    out: Path
    root: Path
    zero_mean: bool = False
    loss: str = "boxes"
    steps: int = 400
    seed: int = 0
    rate: float = 2e-2
    average: float = 0.98
    pairs: int = 16
    rendered: int = 3500
    real: int = 1500
    calibrated: int = 400
    share: float = 0.5
    photos: bool = False
    every: int = 50

    def fixed(self) -> dict[str, Any]:
        """What must not change when a run goes on from a checkpoint."""
        return {name: value for name, value in vars(self).items() if name not in _AFTERWARDS}


class Batch(NamedTuple):
    """What a step sees: templates (N, 3, 64, 64), search pictures (N, 3, 119, 119), moves (N, 4) as in `Pairs`."""

    templates: Tensor
    searches: Tensor
    moves: Tensor


def inputs_of(pairs: Pairs) -> Batch:
    """Turn stored pairs into what the network takes."""
    mean = torch.tensor(MEAN_RGB)[:, None, None]
    return Batch(
        torch.from_numpy(pairs.templates).float() - mean,
        torch.from_numpy(pairs.searches).float() - mean,
        torch.from_numpy(pairs.moves),
    )


def true_cells(moves: Tensor) -> Tensor:
    """Index (N,) into the flattened response of the cell nearest to the true centre."""
    shift = torch.stack([moves[:, :2].mean(1), moves[:, 2:].mean(1)], dim=1).round().clamp(-REACH, REACH).long() + REACH
    return shift[:, 0] * CELLS + shift[:, 1]


def pair_loss(response: Tensor, offsets: Tensor, moves: Tensor, strength: Tensor, kind: str = "entropy") -> Tensor:
    """How wrong the answers are.

    `center`: the authors' loss; responses that come near the true one, weighted by distance up to 2 cells. `entropy`: cross
    entropy over the cells; a template's strength is taken out of the response, so that a pale object counts as much as a
    colourful one. `boxes`: besides, the expected loss of overlap over the cells. All: smooth L1 of ten times the offsets there.

    Args:
        response: (N, 7, 7).
        offsets: (N, 4, 7, 7).
        moves: (N, 4) as in `Pairs`.
        strength: (N,) mean length of a template's filters before weighting.
        kind: One of `LOSSES`.
    """
    cell = true_cells(moves)
    flat = response.flatten(1)
    given, wanted = edges_at(offsets, cell, moves)
    edges = functional.smooth_l1_loss(10 * given, 10 * wanted)
    if kind == "center":
        places = torch.arange(CELLS * CELLS)
        every = torch.stack([places // CELLS, places % CELLS], dim=1) - REACH
        at = torch.stack([cell // CELLS, cell % CELLS], dim=1) - REACH
        margin = (every[None] - at[:, None]).abs().sum(2).clamp(max=2)
        return torch.relu(flat + margin - flat.gather(1, cell[:, None])).sum(1).mean() * 4 / CELLS**2 + edges
    logits = flat * (_SHARP / strength[:, None])
    loss = functional.cross_entropy(logits, cell) + 0.3 * edges
    if kind == "boxes":
        overlap = overlaps(_boxes_of(offsets), moves[:, :, None])
        loss = loss + 3 * (torch.softmax(logits, 1) * (1 - overlap)).sum(1).mean()
    return loss


_SHARP = 4000.0  # divides the usual response (a hundredth of a filter's length where a patch fits) to logits near 40


def _boxes_of(offsets: Tensor) -> Tensor:
    """Moves (N, 4, 49) that each cell of an answer stands for."""
    places = torch.arange(CELLS * CELLS)
    rows, columns = places // CELLS - REACH, places % CELLS - REACH
    return offsets.flatten(2) + torch.stack([rows, rows, columns, columns]).float()


def overlaps(moves: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of boxes given by their moves (N, 4, ...) from one box of 8 x 8 cells."""
    y1, y2, x1, x2 = (edge + start for edge, start in zip(moves.unbind(1), (0, 8, 0, 8), strict=True))
    ty1, ty2, tx1, tx2 = (edge + start for edge, start in zip(truth.unbind(1), (0, 8, 0, 8), strict=True))
    inner = (torch.minimum(y2, ty2) - torch.maximum(y1, ty1)).clamp(min=0)
    inner = inner * (torch.minimum(x2, tx2) - torch.maximum(x1, tx1)).clamp(min=0)
    areas = (y2 - y1).clamp(min=0) * (x2 - x1).clamp(min=0) + (ty2 - ty1) * (tx2 - tx1)
    return inner / (areas - inner).clamp(min=1e-6)


def box_overlaps_of(offsets: Tensor, cells: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Overlap (N,) with the truth of the boxes answered at `cells` (N,), and of the box the search was laid around."""
    own = _boxes_of(offsets).gather(2, cells[:, None, None].expand(-1, 4, 1)).squeeze(2)
    return overlaps(own, moves), overlaps(torch.zeros_like(moves), moves)


def strength_of(network: PatchNet, templates: Tensor) -> Tensor:
    """Mean length (N,) of the patches of templates."""
    mean = templates.mean((2, 3), keepdim=True) if network.zero_mean else 0.0
    energy = functional.avg_pool2d((templates - mean).square().sum(1, keepdim=True), PATCH) * PATCH * PATCH
    return energy.sqrt().mean((1, 2, 3)) + 10.0


def learning_rate(step: int, settings: Settings) -> float:
    """Return the rate of a step: it rises over the first 30 and falls to 0 as a cosine."""
    rise = min(1.0, (step + 1) / max(1, min(_WARM, settings.steps // 4)))
    return settings.rate * rise * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps))


def train(settings: Settings) -> Path:
    """Train, going on from the checkpoint in `settings.out` if there is one.

    Returns:
        The averaged weights, fp32 safetensors.

    Raises:
        CheckpointError: the checkpoint there is of another run.
        InputError: no such loss.
    """
    if settings.loss not in LOSSES:
        raise InputError(f"`loss` must be one of {', '.join(LOSSES)}; got {settings.loss!r:.60}")
    settings.out.mkdir(parents=True, exist_ok=True)
    pairs = cached_pairs(
        settings.out / "pairs", settings.root, "train", rendered=settings.rendered, real=settings.real,
        seed=settings.seed, photos=settings.photos,
    )  # fmt: skip
    network = PatchNet(zero_mean=settings.zero_mean)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    named = dict(network.named_parameters())
    groups = [{"params": [value for name, value in named.items() if (name in _FAST) == fast]} for fast in (True, False)]
    optimiser = torch.optim.Adam(groups, lr=settings.rate, betas=(0.9, 0.99))
    start, losses = _resume(settings, network, average, optimiser)
    bar = tqdm(total=settings.steps, initial=start, desc="steps", mininterval=5, smoothing=0.05)
    began = time.monotonic()
    for step in range(start, settings.steps):
        batch = inputs_of(pairs.take(_chosen(step, len(pairs.moves), settings)))
        losses.append(_step(network, optimiser, batch, learning_rate(step, settings), settings.loss))
        follow(average, network, min(settings.average, (1 + step) / (10 + step)))
        bar.set_postfix_str(f"loss {sum(losses[-50:]) / len(losses[-50:]):.3f}", refresh=False)
        bar.update()
        if (step + 1) % settings.every == 0 or step + 1 == settings.steps:
            keep(settings.out, network, average, optimiser, settings=settings.fixed(), step=step + 1, losses=losses)
    bar.close()
    print(f"{settings.steps - start} steps in {(time.monotonic() - began) / 60:.1f} min")
    network.load_state_dict(average)
    if settings.calibrated:
        known = cached_pairs(
            settings.out / "pairs",
            settings.root,
            "validation",
            rendered=0,
            real=settings.calibrated,
            seed=settings.seed,
        )
        print(f"edges believed by {calibrate(network, known):.2f}")
    begun = PatchNet(zero_mean=settings.zero_mean).state_dict()
    both = {name: torch.lerp(begun[name], value, settings.share) for name, value in network.state_dict().items()}
    left = {name: value.float().contiguous() for name, value in sorted(both.items())}
    return write_bytes(settings.out / "weights.safetensors", save(left))


@torch.no_grad()
def calibrate(network: PatchNet, pairs: Pairs) -> float:
    """Scale the offsets of a network, in place, by what makes edges of these pairs most nearly right; return that factor.

    Rendered objects bend less than real ones, so a network trained on them believes small shifts of its patches too much.
    """
    given, wanted = [], []
    for begin in range(0, len(pairs.moves), 50):
        batch = inputs_of(Pairs(*(part[begin : begin + 50] for part in pairs)))
        response, offsets = network(batch.templates, batch.searches)
        cell = true_cells(batch.moves)
        right = response.flatten(1).argmax(1) == cell
        own, truth = edges_at(offsets, cell, batch.moves)
        given.append(own[right])
        wanted.append(truth[right])
    one, other = torch.cat(given), torch.cat(wanted)
    factors = [number / 20 for number in range(8, 25)]
    best = min(factors, key=lambda factor: float((factor * one - other).abs().mean())) if len(one) else 1.0
    network.edges4.mul_(best)
    return best


def edges_at(offsets: Tensor, cell: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets (N, 4) that are answered at cells (N,), and those that would be right."""
    at = torch.stack([cell // CELLS, cell % CELLS], dim=1) - REACH
    wanted = moves - at.float().repeat_interleave(2, dim=1)
    return offsets.flatten(2).gather(2, cell[:, None, None].expand(-1, 4, 1)).squeeze(2), wanted


def _step(network: PatchNet, optimiser: torch.optim.Optimizer, batch: Batch, rate: float, kind: str) -> float:
    response, offsets = network(batch.templates, batch.searches)
    loss = pair_loss(response, offsets, batch.moves, strength_of(network, batch.templates), kind)
    for group, share in zip(optimiser.param_groups, (1.0, _SLOW), strict=True):
        group["lr"] = rate * share
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 20.0)
    optimiser.step()
    return float(loss.detach())


def _chosen(step: int, count: int, settings: Settings) -> np.ndarray[Any, Any]:
    """Indices of the pairs of a step: all pairs in a random order, then all again in another."""
    wanted = np.arange(step * settings.pairs, (step + 1) * settings.pairs)
    rounds = wanted // count
    order = {int(one): np.random.default_rng((settings.seed, 7, int(one))).permutation(count) for one in set(rounds)}
    return np.array([order[int(one)][place] for one, place in zip(rounds, wanted % count, strict=True)])


def _resume(
    settings: Settings, network: PatchNet, average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[int, list[float]]:
    path = settings.out / "checkpoint.pt"
    if not path.exists():
        return 0, []
    content = torch.load(path, weights_only=True)
    if content["settings"] != settings.fixed():
        raise CheckpointError(
            f"{path} belongs to a run with {content['settings']}; this one has {settings.fixed()}\n"
            "hint: give the same options to go on with it, or another --out"
        )
    kept(content, network, average, optimiser)
    return int(content["step"]), list(content["losses"])
