"""Published PatchNet checkpoints in: dense 5x5 sums become the one tap each child has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from effvision.errors import CheckpointError, InputError
from effvision.models.patchnet.network import GRID, Matcher, PatchAggregate, PatchNet

__all__ = ["Variant", "canonical", "from_reference"]

Variant = Literal["patchnet", "patchnetg", "patchaggregate"]
_SMALLEST = 1e-12  # structural zeros are stored as 0 or as denormals
_LEARNED = {
    "feature_layer.freq_coeff": (8, 5, 2),
    "conv2.weight": (16, 64, 5, 5),
    "conv3.weight": (4, 16, 5, 5),
    "conv4.weight": (1, 4, 5, 5),
    "conv3reg.weight": (16, 64, 5, 5),
    "conv4reg.weight": (4, 16, 5, 5),
    "pool2.offset_addi": (4, 4, 1, 1),
    "pool2.alpha": (1,),
    "pool3.offset_addi": (4, 4, 1, 1),
    "pool3.alpha": (1,),
}
_HAND_SET = {"w2": (16, 64, 5, 5), "w3": (4, 16, 5, 5), "w4": (1, 4, 5, 5), "offset_addi": (4, 4, 1, 1)}


def from_reference(
    state_dict: Mapping[str, Tensor], *, variant: Variant = "patchnet", zero_mean: bool | None = None
) -> Matcher:
    """Fill a network from a state dict of the authors' code (RalphMao/PatchNet).

    `patchnetg` orders channels by quarters of quarters and groups its second convolution: the same function, so all learned
    variants become one class.

    Args:
        state_dict: As published; a prefix `module.` is taken off.
        variant: Which of the authors' classes it belongs to.
        zero_mean: Match zero-mean templates although the weights were trained without. Default: as the variant does.

    Returns:
        In eval mode: `net(template (M, 3, 64, 64), search (M, 3, 119, 119)) -> (response (M, 7, 7), offsets (M, 4, 7, 7))`.

    Raises:
        InputError: no such variant, or `patchaggregate` without zero mean.
        CheckpointError: keys or shapes that do not fit, numbers that are not finite, or a tap where the structure has none.
    """
    if variant not in get_args(Variant):
        raise InputError(f"`variant` must be one of {', '.join(get_args(Variant))}; got {variant!r:.60}")
    state = _tensors(state_dict)
    if variant == "patchaggregate":
        if zero_mean is False:
            raise InputError("`patchaggregate` is defined with zero-mean templates: leave `zero_mean` out")
        _check(state, _HAND_SET, variant)
        hand_set = PatchAggregate()
        with torch.no_grad():
            for own, name in ((hand_set.taps2, "w2"), (hand_set.taps3, "w3"), (hand_set.taps4, "w4")):
                own.copy_(_taps(state[name], name))
        return hand_set.eval()
    shapes = dict(_LEARNED)
    if variant == "patchnetg":
        shapes["conv2.weight"] = (16, 4, 5, 5)
    _check(state, shapes, variant)
    network = PatchNet(zero_mean=bool(zero_mean))
    network.load_state_dict(canonical(state, variant))
    return network.eval()


def canonical(state: Mapping[str, Tensor], variant: Variant = "patchnet") -> dict[str, Tensor]:
    """Turn the tensors of a learned variant into those of `PatchNet`; see `from_reference`."""
    second = state["conv2.weight"].float()
    return {
        "frequencies": state["feature_layer.freq_coeff"].float(),
        "taps2": _grouped_taps(second) if variant == "patchnetg" else _taps(second, "conv2.weight"),
        "taps3": _taps(state["conv3.weight"], "conv3.weight"),
        "taps4": _taps(state["conv4.weight"], "conv4.weight"),
        "edges3": _edges(state["conv3reg.weight"], "conv3reg.weight"),
        "edges4": _edges(state["conv4reg.weight"], "conv4reg.weight"),
        "pool2.moves": state["pool2.offset_addi"].float().flatten(1),
        "pool2.sharpness": state["pool2.alpha"].float(),
        "pool3.moves": state["pool3.offset_addi"].float().flatten(1),
        "pool3.sharpness": state["pool3.alpha"].float(),
    }


def _tensors(state_dict: object) -> dict[str, Tensor]:
    """Take off the prefix; demand names and tensors of real numbers."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise CheckpointError(f"a checkpoint is a dict of names and tensors; got {type(state_dict).__name__}")
    state: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                f"`{name}` must be a tensor of real numbers; got {given}\nhint: give the state dict alone"
            )
        own = name.removeprefix("module.")
        if own in state:
            raise CheckpointError(f"`{own}` comes twice in the checkpoint, with and without the prefix `module.`")
        state[own] = value
    return state


def _check(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], variant: str) -> None:
    missing, extra = sorted(set(shapes) - set(state)), sorted(set(state) - set(shapes))
    if missing or extra:
        raise CheckpointError(
            f"this is no checkpoint of {variant}: missing {missing or 'nothing'}, besides {extra or 'nothing'}\n"
            f"hint: it may be another `variant`: {', '.join(get_args(Variant))}"
        )
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointError(
                f"`{name}` of a checkpoint of {variant} is {shape}; got {tuple(state[name].shape)}\n"
                "hint: conv2 of `patchnetg` has 4 channels in, that of `patchnet` 64"
            )
        if not torch.isfinite(state[name]).all():
            raise CheckpointError(f"`{name}` has numbers that are not finite: the checkpoint is damaged")


def _children(parents: int) -> list[tuple[int, int, int, int]]:
    """All (parent, child among all, row, column) of one level, rows and columns 0 or 1."""
    half = round(parents**0.5)
    return [
        (i * half + j, (2 * i + a) * 2 * half + 2 * j + b, a, b)
        for i in range(half)
        for j in range(half)
        for a in (0, 1)
        for b in (0, 1)
    ]


def _taps(weight: Tensor, name: str) -> Tensor:
    """Take the one tap of each child out of (parents, 4 * parents, 5, 5): (parents, 4)."""
    weight = weight.float()
    taps, rest = torch.zeros(weight.shape[0], 4), weight.clone()
    for parent, child, a, b in _children(weight.shape[0]):
        taps[parent, 2 * a + b] = weight[parent, child, 4 * a, 4 * b]
        rest[parent, child, 4 * a, 4 * b] = 0
    _structural(rest, name)
    return taps


def _grouped_taps(weight: Tensor) -> Tensor:
    """Likewise of the grouped convolution (16, 4, 5, 5), whose parents are ordered by quarters of quarters."""
    taps, rest = torch.zeros(16, 4), weight.clone()
    half = GRID // 2
    for i in range(half):
        for j in range(half):
            tiled = 8 * (i // 2) + 4 * (j // 2) + 2 * (i % 2) + j % 2
            for a in (0, 1):
                for b in (0, 1):
                    taps[i * half + j, 2 * a + b] = weight[tiled, 2 * a + b, 4 * a, 4 * b]
                    rest[tiled, 2 * a + b, 4 * a, 4 * b] = 0
    _structural(rest, "conv2.weight")
    return taps


def _edges(weight: Tensor, name: str) -> Tensor:
    """Take the edge taps out of (4 * parents, 16 * parents, 5, 5): (parents, 2 axes, 2 edges, 4 children, 2 edges)."""
    weight = weight.float()
    parents = weight.shape[0] // 4
    taps, rest = torch.zeros(parents, 2, 2, 4, 2), weight.clone()
    for parent, child, a, b in _children(parents):
        for axis in (0, 1):
            for out in (0, 1):
                for edge in (0, 1):
                    place = (4 * parent + 2 * axis + out, 4 * child + 2 * axis + edge, 4 * a, 4 * b)
                    taps[parent, axis, out, 2 * a + b, edge] = weight[place]
                    rest[place] = 0
    _structural(rest, name)
    return taps


def _structural(rest: Tensor, name: str) -> None:
    if rest.abs().max() > _SMALLEST:
        raise CheckpointError(
            f"`{name}` has taps where PatchNet's pyramid has none, so it is another network\n"
            "hint: the authors' training keeps those at zero"
        )
