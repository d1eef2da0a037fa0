"""An engine for callers that hold NumPy arrays and know no PyTorch; see `effvision.host.editing.Editor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effvision.host.editing import Arrays, Edited
from effvision.incremental.engine import IncrementalNetwork, Update

__all__ = ["ArrayEditor"]


@dataclass(frozen=True)
class _Shown:
    """An update whose output is an array; the rest is the engine's."""

    output: NDArray[Any]
    update: Update

    @property
    def changed(self) -> tuple[tuple[tuple[int, int, int, int], ...], ...]:
        return self.update.changed

    @property
    def macs(self) -> float:
        return self.update.macs

    @property
    def dense_macs(self) -> float:
        return self.update.dense_macs

    @property
    def how(self) -> Any:
        return self.update.how

    @property
    def note(self) -> str:
        return self.update.note


class ArrayEditor:
    """An `effvision.host.editing.Editor` over an engine.

    Args:
        engine: This editor's own.
        names: Of the inputs, in the order in which the network takes them.
        device: Where the engine computes.
    """

    def __init__(self, engine: IncrementalNetwork, names: Sequence[str], device: torch.device) -> None:
        self.engine = engine
        self._names, self._device = tuple(names), device

    def update(self, arrays: Arrays, mask: NDArray[np.bool_] | None = None, *, check: bool = False) -> Edited:
        """Update the engine; see `Editor.update`."""
        found = self.engine.update(self._tensors(arrays), mask, check=check)
        return _Shown(_array(found.output), found)

    def undo(self, to: int | None = None) -> NDArray[Any]:
        """Go back; see `Editor.undo`."""
        return _array(self.engine.undo(to))

    def redo(self) -> NDArray[Any]:
        """Go forward; see `Editor.redo`."""
        return _array(self.engine.redo())

    def commit(self) -> None:
        """Forget the way."""
        self.engine.commit()

    def checkpoint(self) -> int:
        """Return a mark."""
        return self.engine.checkpoint()

    def reset(self) -> None:
        """Forget the picture."""
        self.engine.reset()

    @property
    def can_undo(self) -> int:
        """How many updates can be undone."""
        return self.engine.can_undo

    @property
    def can_redo(self) -> int:
        """How many undone updates can be done again."""
        return self.engine.can_redo

    @property
    def promise(self) -> str:
        """What the engine's mode promises."""
        return self.engine.promise

    @property
    def dense_macs(self) -> float:
        """Multiply-adds of a full pass."""
        return self.engine.dense_macs

    @property
    def cache_bytes(self) -> int:
        """Kept maps, inputs included; 0 before the first picture."""
        return self.engine.cache_bytes

    @property
    def journal_bytes(self) -> int:
        """What undo and redo take."""
        return self.engine.journal_bytes

    def kept(self) -> dict[str, NDArray[Any]]:
        """Return the maps kept besides the inputs; views where the engine computes on the processor."""
        return {name: _array(tensor) for name, tensor in self.engine.kept().items()}

    def restore(self, arrays: Arrays, kept: Arrays) -> NDArray[Any]:
        """Take up a picture; see `Editor.restore`."""
        maps = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in kept.items()}
        return _array(self.engine.restore(self._tensors(arrays), maps))

    def _tensors(self, arrays: Arrays) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(arrays[name]).to(self._device) for name in self._names)


def _array(output: Any) -> NDArray[Any]:
    """The first output as an array."""
    first = output[0] if isinstance(output, (tuple, list)) else output
    found: NDArray[Any] = first.detach().cpu().numpy()
    return found
