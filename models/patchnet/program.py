"""What the host does around PatchNet's graph: crops, peaks, boxes, who is who. NumPy only, and part of a device's kit.

All numbers of all objects lie in one state whose first axis counts objects:

    filters, mean       what the graph keeps of an object's template
    template, refresh   a template cut from the last frame that the graph has not taken up yet, and whether there is one
    boxes, signs        where the object was last believed to be, and what `effvision.host.tracking` remembers of it

One update is one call of the graph for all objects of all streams: first their search pictures are cut (`plan`), then the
answers are read (`settle`). A new template is taken up by the next call, so starting an object costs none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision.host.assignment import match_boxes
from effvision.host.boxes import box_iou
from effvision.host.crops import crop_boxes, search_windows, template_windows
from effvision.host.tracking import Followed, Rule, follow, fresh_signs, search_boxes
from effvision.state import Array, State

__all__ = ["SEARCH", "TEMPLATE", "Answer", "Plan", "empty_state", "plan", "settle"]

TEMPLATE, SEARCH = 64, 119
_FILTERS = (64, 3, 8, 8)
_GROWTH = SEARCH / TEMPLATE
Feed = dict[str, NDArray[np.float32]]


class Plan(NamedTuple):
    """One stream's part of a call."""

    feed: Feed
    """`search` (R, 3, 119, 119), `template` (R, 3, 64, 64), `refresh` (R,)."""
    held: State
    """`filters` and `mean` (R, ...): an object that is searched for in several places is there several times."""
    state: State
    """What else is kept of the M objects that go on."""
    windows: NDArray[np.float64]
    """(R, 4): the boxes that search pictures were laid around."""
    owner: NDArray[np.intp]
    """(R,): whose picture it is, ascending."""


class Answer(NamedTuple):
    """One stream's objects after a call: those that went on, then the new ones."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    lost: NDArray[np.bool_]
    origin: NDArray[np.intp]
    """(M,): which of the objects that went on it is; -1 for a new one."""
    detection: NDArray[np.intp]
    """(M,): which detection it was found to be; -1 for none."""


def empty_state() -> State:
    """Return the state of a stream without objects."""
    return _fresh(0)


def _fresh(count: int) -> State:
    return State(
        {
            "filters": np.zeros((count, *_FILTERS), np.float32),
            "mean": np.zeros((count, 3), np.float32),
            "template": np.zeros((count, 3, TEMPLATE, TEMPLATE), np.float32),
            "refresh": np.zeros(count, np.float32),
            "boxes": np.zeros((count, 4)),
            "signs": fresh_signs(count),
        }
    )


def plan(image: NDArray[np.uint8], kept: Sequence[int], state: State, rule: Rule) -> Plan:
    """Choose where to look for the objects that go on, and cut the pictures.

    Args:
        image: (H, W, 3) uint8 RGB.
        kept: Rows of `state` that go on.
        state: Of this stream.
        rule: How objects are followed.
    """
    going = state if list(kept) == list(range(state.batch)) else state.rows(kept)
    windows, owner = search_boxes(going["boxes"], going["signs"], rule)
    feed = {
        "search": crop_boxes(image, search_windows(windows, _GROWTH), SEARCH),
        "template": going["template"] if len(owner) == going.batch else going["template"][owner],
        "refresh": going["refresh"] if len(owner) == going.batch else going["refresh"][owner],
    }
    held = State({name: going[name] for name in ("filters", "mean")})
    if len(owner) != going.batch:
        held = held.rows(owner.tolist())
    return Plan(feed, held, going, windows, owner)


def settle(
    image: NDArray[np.uint8],
    planned: Plan,
    outputs: Mapping[str, Array],
    following: State,
    rule: Rule,
    *,
    started: NDArray[np.float64],
    found: NDArray[np.float64] | None = None,
    may_match: NDArray[np.bool_] | None = None,
    least_overlap: float = 0.3,
) -> tuple[Answer, State]:
    """Read the graph's answers, take up detections and new objects, and cut the templates that they ask for.

    Args:
        image: The frame that was searched.
        planned: By `plan`.
        outputs: `response`, `offsets`, `strength` of its rows.
        following: `filters` and `mean` of its rows after the call.
        rule: How objects are followed.
        started: (S, 4) boxes of new objects.
        found: (D, 4) detections; None if no detector ran. Those that are no object's become new objects.
        may_match: (M, D) which object may be which detection.
        least_overlap: Of an object and its detection.
    """
    held, owner = planned.state, planned.owner
    first = np.searchsorted(owner, np.arange(held.batch))  # all pictures of an object have the same filters
    if len(owner) != held.batch:
        following = following.rows(first.tolist())
    seen = follow(planned.windows, owner, outputs, held["boxes"], held["signs"], rule, image.shape[:2])
    detection, fresh, alone = np.full(held.batch, -1), started, np.zeros(0, np.intp)
    if found is not None:
        rows, columns = match_boxes(box_iou(seen.boxes, found), least=least_overlap, allowed=may_match)
        detection[rows] = columns
        seen = _restart(seen, rows, found[columns])
        alone = np.setdiff1d(np.arange(len(found)), columns)
        fresh = np.concatenate([started, found[alone]])
    detection = np.concatenate([detection, np.full(len(started), -1), alone])
    boxes, refresh = np.concatenate([seen.boxes, fresh]), np.concatenate([seen.refresh, np.ones(len(fresh), bool)])
    kept = _with_fresh(following, len(fresh))
    state = State(
        {
            "filters": kept["filters"],
            "mean": kept["mean"],
            "template": _templates(image, boxes, refresh),
            "refresh": refresh.astype(np.float32),
            "boxes": boxes,
            "signs": np.concatenate([seen.signs, fresh_signs(len(fresh))]),
        }
    )
    answer = Answer(
        boxes,
        np.concatenate([seen.scores, np.ones(len(fresh), np.float32)]),
        np.concatenate([seen.lost, np.zeros(len(fresh), bool)]),
        np.concatenate([np.arange(held.batch), np.full(len(fresh), -1)]),
        detection,
    )
    return answer, state


def _templates(image: NDArray[np.uint8], boxes: NDArray[np.float64], refresh: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Cut the templates that are asked for; the others are zeros that nobody reads."""
    template = np.zeros((len(boxes), 3, TEMPLATE, TEMPLATE), np.float32)
    asked = np.flatnonzero(refresh)
    template[asked] = crop_boxes(image, template_windows(boxes[asked]), TEMPLATE)
    return template


def _with_fresh(following: State, count: int) -> State:
    """Add rows for new objects to what the graph keeps."""
    kept = State({name: following[name] for name in ("filters", "mean")})
    if not count:
        return kept
    new = _fresh(count)
    return State.stack([kept, State({name: new[name] for name in ("filters", "mean")})]) if kept.batch else new


def _restart(seen: Followed, rows: NDArray[np.intp], boxes: NDArray[np.float64]) -> Followed:
    """Put objects where a detector saw them, as if they were new."""
    moved, scores, lost = seen.boxes.copy(), seen.scores.copy(), seen.lost.copy()
    signs, refresh = seen.signs.copy(), seen.refresh.copy()
    moved[rows], scores[rows], lost[rows] = boxes, 1.0, False
    signs[rows], refresh[rows] = fresh_signs(len(rows)), True
    return Followed(moved, scores, lost, signs, refresh)


def run_rows(
    step: Callable[[Feed, State], tuple[dict[str, Any], State]], feed: Feed, held: State, *, most: int, fixed: bool
) -> tuple[dict[str, NDArray[Any]], State]:
    """Run any number of rows through a graph that takes `most` at a time, exactly so many where that is `fixed`."""
    count = len(feed["refresh"])
    answers: list[dict[str, Any]] = []
    states: list[State] = []
    for begin in range(0, count, most):
        rows = list(range(begin, min(begin + most, count)))
        filled = rows + rows[:1] * (most - len(rows)) if fixed else rows
        part = {name: array[filled] for name, array in feed.items()} if len(filled) < count or fixed else feed
        outputs, following = step(part, held.rows(filled) if part is not feed else held)
        answers.append({name: array[: len(rows)] for name, array in outputs.items()})
        states.append(following.rows(list(range(len(rows)))) if len(filled) > len(rows) else following)
    joined = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    return joined, states[0] if len(states) == 1 else State.stack(states)
