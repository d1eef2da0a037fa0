"""What the host does around PatchNet's graph: crops, places, who is who. NumPy only, and part of a device's kit.

All arrays of all objects lie in one state whose first axis counts objects: `filters` and `mean`, which the graph keeps of a
template, and the signs of `effvision.host.tracking`. One update is at most two calls of the graph for all objects of all
streams: one that looks for the objects that go on (`plan`, then `settle`), and, only where objects start, one that takes up
their templates and looks at them in their own frame (`opening`, then `open_objects`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effvision.host.assignment import match_boxes
from effvision.host.boxes import box_iou
from effvision.host.crops import crop_boxes, search_windows, template_windows
from effvision.host.peaks import Score
from effvision.host.tracking import Rule, begin, follow, no_signs, search_boxes
from effvision.state import Array, State

__all__ = [
    "SEARCH",
    "TEMPLATE",
    "Half",
    "Rows",
    "advance",
    "empty_state",
    "open_objects",
    "opening",
    "plan",
    "run_rows",
    "run_together",
    "settle",
]

TEMPLATE, SEARCH = 64, 119
_FILTERS = (64, 3, 8, 8)
_GROWTH = SEARCH / TEMPLATE
_GRAPH = ("filters", "mean")
_FEW, _MANY = 4, 64  # rows in one call on a processor: few fit its caches; PyTorch's matcher sees to that by itself
Feed = dict[str, NDArray[np.float32]]


class Rows(NamedTuple):
    """One stream's part of a call of the graph: R rows, of which one object may have several."""

    feed: Feed
    """`search` (R, 3, 119, 119), `template` (R, 3, 64, 64), `refresh` (R,)."""
    held: State
    """`filters` and `mean` of each row."""


class Half(NamedTuple):
    """One stream between its two calls: M objects that went on, and the boxes in which objects start or start anew."""

    state: State
    """Of the M objects."""
    boxes: NDArray[np.float64]
    """(M, 4) where they are."""
    scores: NDArray[np.float32]
    detection: NDArray[np.intp]
    """(M,): which detection it was found to be; -1 for none."""
    anew: NDArray[np.intp]
    """(A,): which of the M objects start anew, in a detector's box or where they were found."""
    starts: NDArray[np.float64]
    """(A + S + N, 4): those boxes, then those of new objects: asked for, and found by the detector besides."""
    found: NDArray[np.intp]
    """(S + N,): which detection a new object is; -1 for one that was asked for and that the detector did not find."""


def empty_state(rule: Rule) -> State:
    """Return the state of a stream without objects."""
    return State({**_no_filters(0), **no_signs(0, rule)})


def _no_filters(count: int) -> dict[str, NDArray[np.float32]]:
    return {"filters": np.zeros((count, *_FILTERS), np.float32), "mean": np.zeros((count, 3), np.float32)}


def plan(
    image: NDArray[np.uint8], kept: Sequence[int], state: State, rule: Rule
) -> tuple[Rows, State, NDArray[np.float64], NDArray[np.intp]]:
    """Choose where to look for the objects that go on, and cut the pictures.

    Args:
        image: (H, W, 3) uint8 RGB.
        kept: Rows of `state` that go on.
        state: Of this stream.
        rule: How objects are followed.

    Returns:
        The rows of a call, the state of the M objects, and the rows' windows (R, 4) and owners (R,).
    """
    going = state if list(kept) == list(range(state.batch)) else state.rows(kept)
    windows, owner = search_boxes(going, image.shape[:2], rule)
    held = State({name: going[name] for name in _GRAPH})
    if len(owner) != going.batch:
        held = held.rows(owner.tolist())
    feed = {
        "search": crop_boxes(image, search_windows(windows, _GROWTH), SEARCH),
        "template": np.zeros((len(owner), 3, TEMPLATE, TEMPLATE), np.float32),
        "refresh": np.zeros(len(owner), np.float32),
    }
    return Rows(feed, held), going, windows, owner


def settle(
    planned: tuple[Rows, State, NDArray[np.float64], NDArray[np.intp]],
    outputs: Mapping[str, Array],
    rule: Rule,
    *,
    seconds: float,
    started: NDArray[np.float64],
    found: NDArray[np.float64] | None = None,
    may_match: NDArray[np.bool_] | None = None,
    least_overlap: float = 0.3,
    score: Score | None = None,
    chained: bool = False,
) -> Half:
    """Read the graph's answers, and find out which object each detection is.

    Args:
        planned: By `plan`.
        outputs: `response` and `offsets` of its rows.
        rule: How objects are followed.
        seconds: Since the last frame.
        started: (S, 4) boxes of new objects.
        found: (D, 4) detections; None if no detector ran. Those that are no object's become new objects.
        may_match: (M + S, D) which object, of those that go on and then those that start, may be which detection.
        least_overlap: Of an object and its detection.
        score: Which score is told; see `effvision.host.tracking.follow`.
        chained: Every object that was found gets the template of where it was found, instead of keeping its own.
    """
    rows, state, windows, owner = planned
    seen = follow(windows, owner, rows.feed["search"], outputs, state, rule, seconds=seconds, score=score)
    detection, nothing = np.full(state.batch, -1), np.zeros((0, 4))
    anew, again, alone, besides = np.zeros(0, np.intp), nothing, np.zeros(0, np.intp), nothing
    asked = np.full(len(started), -1)
    if found is not None:
        everyone = np.concatenate([seen.boxes, started])
        whose, matched = match_boxes(box_iou(everyone, found), least=least_overlap, allowed=may_match)
        old = whose < state.batch
        anew, again = whose[old], found[matched[old]]
        detection[anew] = matched[old]
        asked[whose[~old] - state.batch] = matched[~old]  # it starts in the box that was asked for
        alone = np.setdiff1d(np.arange(len(found)), matched)
        besides = found[alone]
    if chained:
        links = np.flatnonzero(~seen.lost & (detection < 0))
        anew, again = np.concatenate([anew, links]), np.concatenate([again, seen.boxes[links]])
    after = State({**{name: state[name] for name in _GRAPH}, **seen.signs})
    new = np.concatenate([asked, alone])
    return Half(after, seen.boxes, seen.scores, detection, anew, np.concatenate([again, started, besides]), new)


def opening(image: NDArray[np.uint8], half: Half) -> Rows:
    """Cut templates and search pictures of the objects that start."""
    boxes = half.starts
    feed = {
        "search": crop_boxes(image, search_windows(boxes, _GROWTH), SEARCH),
        "template": crop_boxes(image, template_windows(boxes), TEMPLATE),
        "refresh": np.ones(len(boxes), np.float32),
    }
    return Rows(feed, State(_no_filters(len(boxes))))


def open_objects(
    half: Half, opened: Rows, outputs: Mapping[str, Array], following: State, rule: Rule
) -> tuple[dict[str, Array], State]:
    """Return what is told of the objects, those that went on and then the new ones, and their state.

    Returns:
        `boxes` (M', 4), `scores` (M',), `lost` (M',), `origin` (M',) which of the objects that went on it is, -1 for a new one,
        and `detection` (M',) which detection it is, -1 for none; then the state.
    """
    state, boxes, scores = half.state, half.boxes.copy(), half.scores.copy()
    boxes[half.anew] = half.starts[: len(half.anew)]
    if len(half.starts):
        new = State(
            {
                **following,
                **begin(half.starts, opened.feed["template"], opened.feed["search"], outputs["response"], rule),
            }
        )
        state = State.stack([state, new]) if state.batch else new
        # those that start anew take the place they had
        count, again = half.state.batch, len(half.anew)
        order = np.arange(count + len(half.starts))
        order[half.anew] = count + np.arange(again)
        state = state.rows(np.delete(order, count + np.arange(again)).tolist())
    scores[half.detection >= 0] = 1.0
    fresh = len(half.found)
    return {
        "boxes": np.concatenate([boxes, half.starts[len(half.anew) :]]),
        "scores": np.concatenate([scores, np.ones(fresh, np.float32)]),
        "lost": state["lost"].copy(),
        "origin": np.concatenate([np.arange(half.state.batch), np.full(fresh, -1)]),
        "detection": np.concatenate([half.detection, half.found]),
    }, state


def advance(
    image: NDArray[np.uint8],
    state: State,
    rule: Rule,
    run: Callable[[Rows], tuple[dict[str, Any], State]],
    *,
    seconds: float,
    started: NDArray[np.float64],
) -> tuple[dict[str, Array], State]:
    """Do one update of one stream without a detector: what a device's program needs.

    Args:
        image: (H, W, 3) uint8 RGB.
        state: Of the stream; all its objects go on.
        rule: How objects are followed.
        run: Sends any number of rows through the graph, such as `run_rows`.
        seconds: Since the last frame.
        started: (S, 4) boxes of new objects.

    Returns:
        As `open_objects`.
    """
    planned = plan(image, range(state.batch), state, rule)
    outputs, _ = run(planned[0])
    half = settle(planned, outputs, rule, seconds=seconds, started=started)
    opened = opening(image, half)
    outputs, following = run(opened)
    return open_objects(half, opened, outputs, following, rule)


def run_rows(
    step: Callable[[Feed, State], tuple[dict[str, Any], State]], rows: Rows, *, most: int, fixed: bool
) -> tuple[dict[str, NDArray[Any]], State]:
    """Run any number of rows through a graph that takes `most` at a time, exactly so many where that is `fixed`."""
    count = len(rows.feed["refresh"])
    answers: list[dict[str, Any]] = []
    states: list[State] = []
    for first in range(0, count, most):
        own = list(range(first, min(first + most, count)))
        filled = own + own[:1] * (most - len(own)) if fixed else own
        if len(filled) == count and len(own) == count:
            outputs, following = step(rows.feed, rows.held)
        else:
            outputs, following = step(
                {name: array[filled] for name, array in rows.feed.items()}, rows.held.rows(filled)
            )
        answers.append({name: array[: len(own)] for name, array in outputs.items()})
        states.append(following.rows(range(len(own))) if len(filled) > len(own) else following)
    joined = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    return joined, states[0] if len(states) == 1 else State.stack(states)


def run_together(runtime: Any, parts: Sequence[Rows]) -> list[tuple[dict[str, NDArray[Any]], State]]:
    """Send the rows of all streams through a runtime's graph together and give each stream its own back."""
    spec = runtime.graphs["step"]
    axis = spec.inputs[0].shape[0]
    counts = [len(one.feed["refresh"]) for one in parts]
    empty = {
        tensor.name: np.zeros((0, *(int(axis) for axis in tensor.shape[1:])), np.float32) for tensor in spec.outputs
    }
    there = [one for one, count in zip(parts, counts, strict=True) if count]
    if not there:
        return [(empty, one.held) for one in parts]
    rows = there[0]
    if len(there) > 1:
        feed = {name: np.concatenate([one.feed[name] for one in there]) for name in rows.feed}
        rows = Rows(feed, State.stack([one.held for one in there]))
    many = _FEW if runtime.name == "onnx" else _MANY
    most = axis if isinstance(axis, int) else many if runtime.device == "cpu" else sum(counts)
    outputs, following = run_rows(runtime.step, rows, most=most, fixed=isinstance(axis, int))
    if len(there) == 1:
        return [(outputs, following) if count else (empty, one.held) for one, count in zip(parts, counts, strict=True)]
    ends = np.cumsum(counts)
    results = []
    for one, count, end in zip(parts, counts, ends.tolist(), strict=True):
        own = slice(end - count, end)
        part = {name: array[own] for name, array in outputs.items()}
        results.append((part, following.rows(range(own.start, own.stop)) if count else one.held))
    return results
