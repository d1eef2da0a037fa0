"""A session: one stream's state and memory, over a predictor that many sessions share."""

from __future__ import annotations

import copy
import io
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effvision._files import as_path, write_bytes
from effvision.errors import EffvisionError, InputError, StateError
from effvision.results import Result, Timing
from effvision.state import Array, State

if TYPE_CHECKING:
    from effvision.predictor import Memory, Predictor

__all__ = ["Session"]

_FORMAT = 1


class Session:
    """Advance one stream: `update` per input, `reset` to forget, `save` to go on later.

    A session is not shared between threads; two sessions of one predictor may run in two threads.

    Attributes:
        predictor: The model.
        memory: Plain data: clock, smoothing, counters.
        state: Arrays held from the last step.
    """

    def __init__(self, predictor: Predictor, memory: Memory, state: State) -> None:
        self.predictor = predictor
        self.memory = memory
        self.state = state
        self._fresh = memory.to_dict()

    def __repr__(self) -> str:
        return f"Session({self.predictor!r}, updates={self.memory.updates})"

    def update(self, inputs: Any, **given: Any) -> Result:
        """Take one input and answer.

        Args:
            inputs: One frame: (H, W, 3) uint8 RGB, a PIL image, a tensor or a picture file.
            **given: The family's options, such as `timestamp=` in seconds.

        Raises:
            InputError: the input or an option cannot be used; the session is unchanged.
        """
        started = time.perf_counter()
        before = self._snapshot()
        try:
            arrays = self._begin(inputs, given)
            prepared = time.perf_counter()
            outputs: Mapping[str, Array] | None = None
            if arrays is not None:
                outputs, self.state = self.predictor.program(self.predictor.runtime, arrays, self.state)
            ran = time.perf_counter()
            return self._end(outputs, Timing(prepare_ms=(prepared - started) * 1e3, run_ms=(ran - prepared) * 1e3))
        except BaseException:  # a picture that cannot be used must not cost the stream what it knows
            self._restore(before)
            raise

    def reset(self, reason: str = "reset") -> None:
        """Forget everything seen; the options stay. The next result says `reason`, a short text."""
        if not isinstance(reason, str):
            raise InputError(f"`reason` must be text; got {type(reason).__name__}")
        self.state = self.predictor.initial_state()
        self.memory = type(self.memory).from_dict(self._fresh)
        self.memory.reset_reason = reason

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write state and memory to one `.npz` file without pickles; it appears whole.

        Raises:
            SourceError: the folder does not exist or cannot be written.
        """
        header = {
            "format": _FORMAT,
            "family": self.predictor.family,
            "card": self.predictor.metadata.card,
            "weights_sha256": self.predictor.metadata.weights_sha256,
            "memory": self.memory.to_dict(),
            "fresh": self._fresh,
        }
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **{"effvision": text, **self.state.numpy()})  # type: ignore[arg-type]
        return write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, predictor: Predictor, path: str | os.PathLike[str], **options: Any) -> Session:
        """Go on from a saved session.

        Raises:
            StateError: the file is missing, damaged, or was saved by another model.
        """
        try:
            saved_bytes = io.BytesIO(as_path(path).read_bytes())  # np.load leaves a damaged file open
            with np.load(saved_bytes, allow_pickle=False) as file:
                header = json.loads(bytes(file["effvision"]))
                state = State({name: file[name] for name in file.files if name != "effvision"})
            if header["format"] != _FORMAT:
                raise StateError(f"{path} has format {header['format']}; this version reads {_FORMAT}")
            own = (predictor.family, predictor.metadata.card, predictor.metadata.weights_sha256)
            saved = (header["family"], header["card"], header["weights_sha256"])
            if own != saved:
                raise StateError(
                    f"{path} was saved by {saved[1] or saved[0]} (weights {saved[2][:12] or 'unknown'}), "
                    f"not by {own[1] or own[0]} (weights {own[2][:12] or 'unknown'})\n"
                    "hint: open it with the model that saved it, or begin a new session"
                )
            memory = predictor.restore_memory(header["memory"], **options)
            fresh = predictor.restore_memory(header["fresh"]).to_dict()  # what `reset` goes back to
        except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds for damaged files
            if isinstance(error, EffvisionError) and str(path) in str(error):
                raise
            if isinstance(error, StateError):
                raise StateError(f"{path}: {error}") from error
            if isinstance(error, EffvisionError):
                raise
            raise StateError(f"{path} is no saved session or is damaged ({type(error).__name__}: {error})") from error
        expected = predictor.initial_state()
        one_row = predictor.counts == "stream"
        if predictor.counts != "maps" and _kinds(expected, rows=one_row) != _kinds(state, rows=one_row):
            raise StateError(
                f"{path} holds {state}, but this model's state is {expected}\nhint: open it with the model that saved it"
            )
        try:
            predictor.check_restored(memory, state)
            session = cls(predictor, memory, state)
        except StateError as error:
            raise StateError(f"{path}: {error}") from error
        session._fresh = fresh
        return session

    def _begin(self, inputs: Any, given: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        unknown = set(given) - self.predictor.update_options
        if unknown:
            known = ", ".join(sorted(self.predictor.update_options)) or "none"
            raise InputError(f"`update` takes no option {', '.join(sorted(unknown))} here; it takes: {known}")
        everything = {"x": inputs, **given}
        reason = self.predictor.interrupted(everything, self.memory)
        if reason is not None:
            self.reset(reason)
        return self.predictor.prepare(everything, self.memory)

    def _snapshot(self) -> tuple[Any, Memory]:
        """What to go back to if an update fails; `prepare` replaces what it changes, so a shallow copy is whole."""
        return self.state, copy.copy(self.memory)

    def _restore(self, before: tuple[Any, Memory]) -> None:
        """Go back to what `_snapshot` gave."""
        self.state, self.memory = before

    def _end(self, outputs: Mapping[str, Array] | None, timing: Timing) -> Result:
        started = time.perf_counter()
        result, self.memory = self.predictor.finish(outputs, self.memory)
        reason, self.memory.reset_reason = self.memory.reset_reason, None
        index, self.memory.updates = self.memory.updates, self.memory.updates + 1
        finish_ms = (time.perf_counter() - started) * 1e3
        timed = Timing(timing.prepare_ms, timing.run_ms, finish_ms)
        return result.replace(timing=timed, index=index, reset_reason=reason)


def _kinds(state: State, *, rows: bool) -> dict[str, Any]:
    return {name: (tuple(array.shape)[0 if rows else 1 :], str(array.dtype)) for name, array in state.items()}
