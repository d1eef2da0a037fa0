"""A session of edits: what every session has, and the words of somebody who paints, undo above all."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from effvision.edits import Edit
from effvision.errors import InputError, RangeError, StateError
from effvision.models.sige.editing import Drawn, EditState, Mark
from effvision.predictor import Memory
from effvision.results import Timing
from effvision.session import Session
from effvision.state import State

if TYPE_CHECKING:
    from effvision.models.sige.predictor import SIGE

__all__ = ["MODES", "EditMemory", "EditSession", "settings_of", "told"]

MODES = ("local", "exact", "frozen", "reference")
_MOST_MB = 1 << 20


@dataclass
class EditMemory(Memory):
    """The options of a session; the way back lives beside it, in the editor, and is not saved.

    Attributes:
        mode: How far a change is followed.
        journal_mb: Megabytes that undo and redo may take.
    """

    mode: str = "local"
    journal_mb: float = 64.0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EditMemory:
        """Rebuild from `to_dict`.

        Raises:
            StateError: no session wrote this.
        """
        reason, updates = data.get("reset_reason"), data.get("updates")
        sound = isinstance(updates, int) and not isinstance(updates, bool) and updates >= 0
        if set(data) != set(cls.__dataclass_fields__) or not sound or not isinstance(reason, (str, type(None))):
            raise StateError(f"the saved session's memory is damaged: {str(dict(data))[:200]}")
        try:
            mode, journal_mb = settings_of(data["mode"], data["journal_mb"])
        except InputError as error:
            raise StateError(f"the saved session's memory is damaged: {error}") from error
        return cls(cast(int, updates), reason, mode, journal_mb)


def settings_of(mode: Any, journal_mb: Any) -> tuple[str, float]:
    """Check the options of a session.

    Raises:
        InputError: an unknown mode, or no number.
        RangeError: a journal below 0 or beyond any memory.
    """
    if not isinstance(mode, str) or mode not in MODES:
        raise InputError(f"`mode` must be one of {', '.join(MODES)}; got {mode!r:.60}\nhint: leave it out for `local`")
    if isinstance(journal_mb, bool) or not isinstance(journal_mb, (int, float, np.integer, np.floating)):
        raise InputError(f"`journal_mb` must be a number of megabytes; got {journal_mb!r:.60}")
    if not 0 <= journal_mb <= _MOST_MB:
        raise RangeError(
            f"`journal_mb` must be 0 to {_MOST_MB}; got {journal_mb}\nhint: 0 keeps no step: nothing can be undone"
        )
    return mode, float(journal_mb)


class EditSession(Session):
    """One picture in work; made by `SIGE.session`. Sessions of one model share its weights and nothing else.

    A session is not shared between threads; two sessions may run in two threads.
    """

    predictor: SIGE
    memory: EditMemory
    state: EditState

    def __init__(self, predictor: SIGE, memory: EditMemory, state: State) -> None:
        super().__init__(predictor, memory, predictor.opened(memory, state))

    def update(self, labels: Any, mask: Any = None, *, check: bool = False) -> Edit:  # type: ignore[override]
        """Take a label map: all of it the first time, then what differs from the last one; the same map again costs nothing.

        Args:
            labels: (H, W) whole numbers, one class a pixel; a PIL image; the path of a `.png` or `.npy` file. See
                `effvision.models.sige.label_maps.read_label_map`.
            mask: (H, W) bool, True where labels may have changed: what changed elsewhere is not taken. Not needed: the
                change is found in a fraction of a millisecond.
            check: Refuse labels that changed outside of the mask, instead of not taking them.

        Raises:
            InputError: the label map or the mask cannot be used; or, with `check`, a change outside of the mask.
            SourceError: a file that cannot be read.
            RuntimeFailure: the back end failed, out of memory say. In all cases the session is as it was before.
        """
        return cast(Edit, super().update(labels, mask=mask, check=check))

    # --- steps --------------------------------------------------------------------------------------------------------

    def undo(self, to: int | None = None) -> Edit:
        """Go back one update, or to a mark of `checkpoint`: the picture is bit for bit what it was. Nothing is computed.

        Raises:
            StateError: there is no picture, or the way back is not known: committed, or beyond `journal_mb`.
        """
        return self._move(lambda: self.state.undo(to))

    def redo(self) -> Edit:
        """Do the update undone last again; nothing is computed.

        Raises:
            StateError: there is none.
        """
        return self._move(self.state.redo)

    def commit(self) -> None:
        """Forget what could be undone and redone, and its memory; the picture stays.

        Raises:
            StateError: there is no picture.
        """
        self.state.commit()

    def checkpoint(self) -> int:
        """Return a mark of the picture as it is now, for `undo(to=mark)`.

        Raises:
            StateError: there is no picture.
        """
        return self.state.editor.checkpoint()

    @property
    def can_undo(self) -> int:
        """How many updates can be undone."""
        return self.state.editor.can_undo

    @property
    def can_redo(self) -> int:
        """How many undone updates can be done again."""
        return self.state.editor.can_redo

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def labels(self) -> NDArray[np.uint8]:
        """The label map as it is now, (H, W) uint8, a copy.

        Raises:
            StateError: there is none yet.
        """
        return self.state.present()[0].copy()

    @property
    def promise(self) -> str:
        """What the picture is compared with a full pass, in a sentence."""
        return self.state.editor.promise

    @property
    def memory_mb(self) -> float:
        """Megabytes that this session holds besides the model: kept maps, journal, the last input and the picture."""
        return self.state.memory_bytes / 1e6

    @property
    def journal_mb(self) -> float:
        """Megabytes of it that undo and redo take now."""
        return self.state.editor.journal_bytes / 1e6

    def reset(self, reason: str = "reset") -> None:
        """Forget the picture and all steps; the options stay. The next result says `reason`, a short text."""
        state = self.state
        super().reset(reason)
        state.reset()
        self.state = state

    # --- inside -------------------------------------------------------------------------------------------------------

    def _move(self, go: Callable[[], Drawn]) -> Edit:
        started = time.perf_counter()
        drawn = go()
        timing = Timing(run_ms=(time.perf_counter() - started) * 1e3)
        return told(drawn).replace(timing=timing, index=max(0, self.memory.updates - 1))

    def _snapshot(self) -> tuple[Any, Any]:
        return self.state.mark(), copy.copy(self.memory)

    def _restore(self, before: tuple[Any, Any]) -> None:
        mark, self.memory = before
        self.state.return_to(cast(Mark, mark))


def told(drawn: Drawn) -> Edit:
    """The result of a step; its picture is its own."""
    return Edit(
        image=drawn.picture.copy(),
        changed=drawn.changed,
        macs=drawn.macs,
        dense_macs=drawn.dense_macs,
        how=dict(drawn.how),
        note=drawn.note,
        labels=drawn.labels,
    )
