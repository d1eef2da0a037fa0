"""What a stream remembers between steps: named arrays with a batch axis, passed in and handed back.

`step(inputs, state) -> (outputs, state)` consumes the state it is given: a back end may update the arrays in place, so the
old value must not be used again. `State.copy()` is the explicit way to keep one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from effvision.errors import StateError

__all__ = ["Array", "State"]

Array = Any
"""A numpy array or a torch tensor. A back end returns the kind it works with; nothing here imports torch."""


class State(Mapping[str, Array]):
    """Named arrays (N, ...): axis 0 is the stream (TSM) or the object (PatchNet).

    Mapping access (`state["state_0"]`) gives the arrays themselves, not copies; the order of the names is the order of
    the network's graph inputs. An empty state is legal: families that remember nothing use it.
    """

    __slots__ = ("_arrays",)
    __eq__ = object.__eq__  # a state is compared by identity: its arrays have no single truth value
    __hash__ = object.__hash__

    def __init__(self, arrays: Mapping[str, Array] | None = None) -> None:
        self._arrays: dict[str, Array] = dict(arrays or {})
        for name, array in self._arrays.items():
            if not hasattr(array, "shape") or not hasattr(array, "ndim"):
                raise StateError(f"a state holds arrays; `{name}` is {type(array).__name__}")
        sizes = {name: array.shape[0] if array.ndim else None for name, array in self._arrays.items()}
        if len(set(sizes.values())) > 1 or None in sizes.values():
            raise StateError(f"every array of a state needs the same first axis; got sizes {sizes}")

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {tuple(array.shape)}" for name, array in self._arrays.items())
        return f"State({inside})"

    @property
    def batch(self) -> int:
        """Streams (or objects) held, the size of axis 0; 0 for an empty state."""
        return int(next(iter(self._arrays.values())).shape[0]) if self._arrays else 0

    @property
    def nbytes(self) -> int:
        """Bytes held by all arrays."""
        return sum(int(np.prod(array.shape)) * int(array.dtype.itemsize) for array in self._arrays.values())

    def copy(self) -> State:
        """Return an independent state with the same values, on the same device."""
        return State({name: _clone(array) for name, array in self._arrays.items()})

    def numpy(self) -> dict[str, np.ndarray]:
        """Return copies of all arrays as numpy, in main memory; what a saved session holds."""
        return {name: np.array(_to_numpy(array)) for name, array in self._arrays.items()}

    @staticmethod
    def stack(states: Sequence[State]) -> State:
        """Join states along axis 0 into a new one: N streams for one call.

        Raises:
            StateError: no state was given, or their names or shapes (axis 0 aside) differ.
        """
        if not states:
            raise StateError("`State.stack` needs at least one state; got none")
        names = list(states[0])
        for state in states[1:]:
            if list(state) != names:
                raise StateError(f"only states of the same network stack; got names {names} and {list(state)}")
            for name in names:
                if state[name].shape[1:] != states[0][name].shape[1:]:
                    raise StateError(
                        f"`{name}` is {tuple(states[0][name].shape)} in one state and {tuple(state[name].shape)} in "
                        "another; states stack only when their frames have the same size"
                    )
        return State({name: _concat([state[name] for state in states]) for name in names})

    def split(self) -> list[State]:
        """Cut along axis 0 into states of one stream each, independent copies of this one."""
        return [self.rows([index]) for index in range(self.batch)]

    def rows(self, indices: Sequence[int]) -> State:
        """Return the chosen streams, in that order, as an independent state.

        Raises:
            StateError: an index is not among the streams held.
        """
        if wrong := [index for index in indices if not -self.batch <= index < self.batch]:
            raise StateError(f"this state holds {self.batch} streams; there is no stream {wrong[0]}")
        return State({name: _clone(array[list(indices)]) for name, array in self._arrays.items()})


def _clone(array: Array) -> Array:
    return array.clone() if hasattr(array, "clone") else np.array(array)


def _to_numpy(array: Array) -> np.ndarray:
    return np.asarray(array.detach().cpu()) if hasattr(array, "detach") else np.asarray(array)


def _concat(arrays: Sequence[Array]) -> Array:
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.concatenate(arrays)
    import torch

    first = next(array for array in arrays if not isinstance(array, np.ndarray))
    return torch.cat([torch.as_tensor(array).to(first.device) for array in arrays])
