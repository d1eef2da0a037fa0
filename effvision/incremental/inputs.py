"""What goes into an engine: checked once, compared with what was there before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.host import edit_inputs
from effvision.host.edit_inputs import LANES, NEARLY, SLACK, SPARSE
from effvision.host.regions import Mask, Rect, split
from effvision.incremental.trace import Value

__all__ = ["as_mask", "as_tuple", "changed_pixels", "check_finite", "check_inputs", "find_change", "missed"]

_NUMPY = (torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


def as_tuple(inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One tensor, or several, as a tuple.

    Raises:
        DTypeError: something is no tensor.
    """
    found = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs) if isinstance(inputs, (list, tuple)) else None
    if not found or not all(isinstance(item, Tensor) for item in found):
        raise DTypeError(
            f"inputs of type {type(inputs).__name__} are no tensors\n"
            "hint: give a tensor, or a tuple of the tensors that the network is called with"
        )
    return found


def check_inputs(given: Sequence[Tensor], values: Sequence[Value], device: torch.device) -> None:
    """Refuse inputs that do not fit the example.

    Raises:
        InputError: another number of inputs, or another device.
        ShapeError, DTypeError: another shape or dtype.
    """
    if len(given) != len(values):
        raise InputError(f"{len(given)} inputs given, the network takes {len(values)}\nhint: give them as one tuple")
    for tensor, value in zip(given, values, strict=True):
        if tuple(tensor.shape) != value.shape:
            raise ShapeError(
                f"input `{value.name}` has shape {tuple(tensor.shape)}, the example had {value.shape}\n"
                "hint: an engine serves one size and batch; make another engine for this one"
            )
        if tensor.dtype != value.dtype:
            raise DTypeError(
                f"input `{value.name}` is {tensor.dtype}, the example was {value.dtype}\nhint: convert it with .to()"
            )
        if tensor.device != device:
            raise InputError(f"input `{value.name}` is on {tensor.device}, the engine on {device}\nhint: move it there")


def check_finite(tensor: Tensor, name: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        RangeError: with the number of them.
    """
    # A sum is one pass and needs no memory; it may overflow without cause, so the pixels themselves have the last word.
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor.sum())):
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise RangeError(
                f"input `{name}` holds {wrong} values that are NaN or infinite\n"
                "hint: look for a division by zero in what makes it; nothing was changed"
            )


def as_mask(mask: Tensor | NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask as an array, whatever its shape and dtype."""
    return mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)


def changed_pixels(before: Tensor, after: Tensor) -> Mask:
    """Where two inputs (N, C, H, W) differ in any channel of any picture: (H, W)."""
    h, w = before.shape[2:]
    if before.device.type != "cpu" or before.dtype not in _NUMPY:
        return (before != after).flatten(0, 1).any(0).cpu().numpy()
    if before.shape[0] == 1 and before.is_contiguous(memory_format=torch.channels_last):
        after = after.contiguous(memory_format=torch.channels_last)
        differs = _unlike(before.permute(0, 2, 3, 1), after.permute(0, 2, 3, 1)).reshape(h * w, -1)
        lanes = next(lane for size, lane in LANES.items() if differs.shape[1] % size == 0)
        return (torch.from_numpy(differs.view(lanes)).amax(1) != 0).view(h, w).numpy()
    return edit_inputs.changed_pixels(before.numpy(), after.detach().numpy())


def _unlike(before: Tensor, after: Tensor) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = before.numpy() != after.detach().numpy()
    return np.ascontiguousarray(found)


def find_change(before: Tensor, after: Tensor, mask: Mask | None) -> list[Rect]:
    """The rectangles of an input that may have changed.

    Args:
        before: (N, C, H, W), or of any shape: then it changed as a whole or not at all.
        after: Likewise.
        mask: (H, W) where it may have changed, if known.
    """
    if before.ndim != 4:
        return [] if torch.equal(before, after) else [(0, 1, 0, 1)]
    if mask is not None:
        return split(mask, SLACK)
    h, w = before.shape[2:]
    some = (slice(None), slice(None), slice(None, None, SPARSE), slice(None, None, SPARSE))
    differs = (before[some] != after[some]).flatten(0, 1).any(0)
    if float(differs.float().mean()) > NEARLY:  # another picture: not worth a closer look
        return [(0, h, 0, w)]
    return split(changed_pixels(before, after), SLACK)


def missed(before: Tensor, after: Tensor, rects: Sequence[Rect]) -> int:
    """How many pixels differ outside of some rectangles."""
    differs = changed_pixels(before, after)
    for top, bottom, left, right in rects:
        differs[top:bottom, left:right] = False
    return int(differs.sum())
