"""What a tracking session remembers besides arrays: who is who, the clock, the size of the frames. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from effvision.errors import DTypeError, InputError, RangeError, StateError
from effvision.host.peaks import SCORES
from effvision.models.patchnet.given import check_boxes
from effvision.predictor import Memory
from effvision.state import State

__all__ = ["Known", "Settings", "TrackMemory", "check_ids", "is_whole", "number"]

_LARGEST_ID = 2**53


@dataclass(frozen=True)
class Known:
    """One object: its number, what the detector called it, and since when it has been lost or missed."""

    id: int
    kind: int = -1
    lost_since_s: float | None = None
    missed: int = 0


@dataclass(frozen=True)
class Settings:
    """The options of a session.

    Attributes:
        boxes: (x1, y1, x2, y2) of the objects to begin with in the first frame.
        ids: Their numbers; empty: 1, 2, 3, ...
        max_lost_s: Seconds after which a lost object is given up; None: never.
        least_overlap: Of an object and a detection that are the same.
        max_missed: Key frames in a row whose detector may miss an object that is still being followed.
        fps: Of frames that come without a timestamp.
        score: What is told as score: one of `effvision.host.peaks`, or `likeness`, which the rule decides by.
        templates: `kept`: those of the given boxes; `chained`: those of where the objects were last found.
    """

    boxes: tuple[tuple[float, ...], ...] = ()
    ids: tuple[int, ...] = ()
    max_lost_s: float | None = None
    least_overlap: float = 0.3
    max_missed: int = 1
    fps: float = 30.0
    score: str = "likeness"
    templates: str = "kept"


@dataclass
class TrackMemory(Memory):
    """Objects in the order of the state's rows, and the stream they are in."""

    settings: Settings = field(default_factory=Settings)
    objects: tuple[Known, ...] = ()
    gone: tuple[int, ...] = ()
    next_id: int = 1
    names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    source: str | None = None
    clock_s: float | None = None
    timestamp: float | None = None
    # between `prepare` and `finish` of one update only
    kept: tuple[int, ...] = ()
    starting: tuple[Known, ...] = ()
    kinds: tuple[int, ...] | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrackMemory:
        """Rebuild from `to_dict`; JSON has made lists of tuples."""
        settings = dict(data["settings"])
        settings["boxes"] = tuple(tuple(box) for box in settings["boxes"])
        settings["ids"] = tuple(settings["ids"])
        parts = {
            "settings": Settings(**settings),
            "objects": tuple(Known(**one) for one in data["objects"]),
            "gone": tuple(data["gone"]),
            "starting": (),
            "names": tuple(data["names"]),
            "size": None if data["size"] is None else tuple(data["size"]),
            "kept": (),
            "kinds": None,
        }
        return cls(**{**data, **parts})


def check_memory(memory: TrackMemory) -> None:
    """Refuse a memory read from a file that no session could have written.

    Raises:
        StateError: it is damaged or of another version.
    """
    numbers = [one.id for one in memory.objects]
    whole = all(type(value) is int for one in memory.objects for value in (one.id, one.kind, one.missed))
    clocks = [one.lost_since_s for one in memory.objects] + [memory.clock_s, memory.timestamp]
    sound = (
        whole
        and len(set(numbers)) == len(numbers)
        and all(value is None or isinstance(value, (int, float)) for value in clocks)
        and all(0 <= number <= _LARGEST_ID for number in numbers)
        and type(memory.next_id) is type(memory.updates) is int
        and max(numbers, default=0) < memory.next_id <= 2 * _LARGEST_ID
        and set(memory.gone) <= set(numbers)
        and all(value is None or isinstance(value, str) for value in (memory.source, memory.reset_reason))
        and all(isinstance(name, str) for name in memory.names)
        and (memory.size is None or (len(memory.size) == 2 and all(type(side) is int for side in memory.size)))
        and _can_be_set(memory.settings)
    )
    if not sound:
        raise StateError(f"the saved session's memory is damaged: {memory!r:.200}")


def check_together(memory: TrackMemory, state: State) -> None:
    """Refuse objects of a saved memory that are not those of the saved state's rows.

    Raises:
        StateError: there are more or fewer, others are lost, or numbers that no object can have.
    """
    hint = "hint: the file is damaged or was put together from two; begin a new session"
    if state.batch != len(memory.objects):
        raise StateError(
            f"the saved memory has {len(memory.objects)} objects, and the saved state {state.batch}\n{hint}"
        )
    rows = {name: np.asarray(array) for name, array in state.items()}
    endless = ("height", "lost_s")  # of a plain colour; of a clock that jumped
    odd = [name for name, array in rows.items() if name not in endless and not np.isfinite(array).all()]
    odd += [name for name in ("size", "first_size", "height", "likely") if not (rows[name] > 0).all()]
    if odd:
        raise StateError(f"the saved state has a `{odd[0]}` that no object can have\n{hint}")
    if rows["lost"].tolist() != [one.lost_since_s is not None for one in memory.objects]:
        raise StateError(f"in the saved state other objects are lost than in the saved memory\n{hint}")


def _can_be_set(settings: Settings) -> bool:
    try:
        given = settings_of(
            settings.boxes or None,
            settings.ids or None,
            settings.max_lost_s,
            settings.least_overlap,
            settings.max_missed,
            settings.fps,
            settings.score,
            settings.templates,
        )
    except InputError:
        return False
    return given == settings


def check_ids(value: Any, count: int | None = None, *, name: str = "ids") -> tuple[int, ...]:
    """Return numbers of objects, `count` of them where that is said; one alone needs no list.

    Raises:
        DTypeError: nothing that numbers can be in.
        InputError: not so many whole numbers from 0 on, all different.
    """
    try:
        value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        given = [value] if isinstance(value, (int, np.integer)) else list(value)
    except (TypeError, RuntimeError) as error:
        raise DTypeError(f"`{name}` must be whole numbers; got {value!r:.80}") from error
    if not all(is_whole(one) and 0 <= one <= _LARGEST_ID for one in given):
        raise InputError(f"`{name}` must be whole numbers, 0 or more, {_LARGEST_ID} at most; got {value!r:.80}")
    if count is not None and (len(given) != count or len(set(given)) != count):
        raise InputError(f"`{name}` must be {count} different numbers, one for each box; got {value!r:.80}")
    if len(set(given)) != len(given):
        raise InputError(f"`{name}` must be different numbers; got {value!r:.80}")
    return tuple(int(one) for one in given)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, of Python or NumPy; neither a bool nor a span of time, which NumPy counts among them."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64))


def number(name: str, value: Any, *, least: float = 0.0, most: float = float("inf"), open_low: bool = False) -> float:
    """Check an option that is a finite number in a range.

    Raises:
        DTypeError: no number.
        RangeError: outside.
    """
    kinds = (int, float, np.integer, np.floating)
    if not isinstance(value, kinds) or isinstance(value, (bool, np.timedelta64)):
        raise DTypeError(f"`{name}` must be a number; got {type(value).__name__}")
    try:
        own = float(value)
    except OverflowError:
        own = float("inf")
    if not (least < own if open_low else least <= own) or not own <= most or not np.isfinite(own):
        top = "" if most == float("inf") else f" and up to {most:g}"
        low = "finite" if least == -float("inf") else f"{'above' if open_low else 'at least'} {least:g}"
        raise RangeError(f"`{name}` must be {low}{top}; got {value!r:.80}")
    return own


def settings_of(
    boxes: Any, ids: Any, max_lost_s: Any, least_overlap: Any, max_missed: Any, fps: Any, score: Any, templates: Any
) -> Settings:
    """Check the options of a session.

    Raises:
        InputError: one is out of range.
    """
    first = check_boxes([] if boxes is None else boxes)
    if ids is not None and boxes is None:
        raise InputError("`ids` are the numbers of `boxes`: give both, or neither")
    if not is_whole(max_missed) or max_missed < 0:
        raise InputError(f"`max_missed` must be a whole number of key frames, 0 or more; got {max_missed!r:.80}")
    return Settings(
        boxes=tuple(tuple(box) for box in first.tolist()),
        ids=() if ids is None else check_ids(ids, len(first)),
        max_lost_s=None if max_lost_s is None else number("max_lost_s", max_lost_s),
        least_overlap=number("least_overlap", least_overlap, most=1.0, open_low=True),
        max_missed=int(max_missed),
        fps=number("fps", fps, open_low=True),
        score=_one_of("score", score, ("likeness", *SCORES)),
        templates=_one_of("templates", templates, ("kept", "chained")),
    )


def _one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"`{name}` must be one of {', '.join(allowed)}; got {value!r:.60}")
    return value


def begin(memory: TrackMemory, ids: Sequence[int | None], kinds: Sequence[int] = ()) -> tuple[tuple[Known, ...], int]:
    """Give numbers to new objects; None takes the next free one. Return them and the number after."""
    following = memory.next_id
    new = []
    for place, given in enumerate(ids):
        own = following if given is None else given
        following = max(following, own + 1)
        new.append(Known(own, kinds[place] if kinds else -1))
    return tuple(new), following


def joined_names(told: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Class names by number: as a detector tells them now, else as it did before; some name only what they found."""
    return tuple(now or before for now, before in zip_longest(told, known, fillvalue=""))


def given_up(one: Known, memory: TrackMemory, now_s: float) -> bool:
    """Whether an object has been lost for too long, or missed by the detector too often."""
    limit, since = memory.settings.max_lost_s, one.lost_since_s
    too_long = limit is not None and since is not None and now_s - since >= limit
    missed = one.missed > (0 if since is not None else memory.settings.max_missed)
    return too_long or (memory.kinds is not None and missed)


def lost_or_found(one: Known, lost: bool, now_s: float) -> Known:
    """Note since when an object has been lost."""
    since = (one.lost_since_s if one.lost_since_s is not None else now_s) if lost else None
    return replace(one, lost_since_s=since)
