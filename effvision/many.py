"""Several streams of one predictor advanced in one call of its network; see `Predictor.update_many` and `stream_many`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from effvision.errors import DTypeError, EffvisionError, InputError, StreamingError
from effvision.results import Result, Timing
from effvision.sources import Frame, Source, Together, open_source
from effvision.sources.together import close_all
from effvision.state import Array, State

__all__ = ["from_frame", "program_joined", "stream_many", "update_many"]


def from_frame(result: Result, frame: Frame, images: bool) -> Result:
    """Say what the frame knows of itself and the session does not."""
    return result.replace(dropped=frame.dropped, image=frame.image if images else None)


def stream_many(
    predictor: Any,
    sources: Sequence[Any],
    *,
    images: bool,
    on_error: Callable[[int, EffvisionError], None] | None,
    options: Mapping[str, Any],
) -> Iterator[tuple[int, Result]]:
    """Open the sources and return their results as they come; arguments and errors as `Predictor.stream_many`."""
    if not predictor.joins:
        raise StreamingError(
            f"{predictor.metadata.card or 'this network'} takes one input after the other, so several streams are no faster "
            "together\nhint: call `stream` for each source; they share the weights"
        )
    if not isinstance(sources, Sequence) or isinstance(sources, (str, bytes)):
        raise DTypeError(
            f"`sources` must be a list of sources; got {type(sources).__name__}\nhint: for one source use `stream`"
        )
    sessions = [predictor.session(**options) for _ in sources]
    opened: list[Source] = []
    try:
        for source in sources:
            opened.append(open_source(source))
        together = Together(opened, on_error=on_error)
    except BaseException:
        close_all(opened)
        raise

    def results() -> Iterator[tuple[int, Result]]:
        with together:
            for ready in together:
                given = [predictor.frame_options(frame) for _, frame in ready]
                answers = predictor.update_many(
                    [sessions[at] for at, _ in ready], [frame.image for _, frame in ready], given
                )
                for (at, frame), result in zip(ready, answers, strict=True):
                    yield at, from_frame(result, frame, images)

    return results()


def update_many(
    predictor: Any, sessions: Sequence[Any], inputs: Sequence[Any], options: Sequence[Mapping[str, Any]]
) -> list[Result]:
    """Advance the sessions, all or none; arguments and errors as `Predictor.update_many`."""
    if not len(sessions) == len(inputs) == len(options):
        raise InputError(
            f"got {len(sessions)} sessions, {len(inputs)} inputs and {len(options)} options; one of each is needed"
        )
    if len({id(session) for session in sessions}) < len(sessions):
        raise InputError("a session appears twice in one call; each stream has one frame per step")
    if any(session.predictor is not predictor for session in sessions):
        raise InputError("every session must come from this predictor")
    started = time.perf_counter()
    before = [session._snapshot() for session in sessions]
    try:
        if not predictor.joins:
            return [session.update(x, **more) for session, x, more in zip(sessions, inputs, options, strict=True)]
        return _advance(predictor, sessions, inputs, options, started)
    except BaseException:  # one picture that cannot be used must not cost the other streams what they know
        for session, then in zip(sessions, before, strict=True):
            session._restore(then)
        raise


def _advance(
    predictor: Any, sessions: Sequence[Any], inputs: Sequence[Any], given: Sequence[Mapping[str, Any]], started: float
) -> list[Result]:
    ready = [session._begin(x, more) for session, x, more in zip(sessions, inputs, given, strict=True)]
    due = [index for index, arrays in enumerate(ready) if arrays is not None]
    outputs: list[Mapping[str, Array] | None] = [None] * len(sessions)
    prepared = time.perf_counter()
    answers = predictor.program_many(
        predictor.runtime,
        [cast(Mapping[str, np.ndarray], ready[index]) for index in due],
        [sessions[index].state for index in due],
    )
    for index, (answer, following) in zip(due, answers, strict=True):
        outputs[index], sessions[index].state = answer, following
    share_ms = (time.perf_counter() - prepared) * 1e3 / max(1, len(due))
    prepare_ms = (prepared - started) * 1e3 / max(1, len(sessions))
    return [
        session._end(answer, Timing(prepare_ms=prepare_ms, run_ms=0.0 if answer is None else share_ms))
        for session, answer in zip(sessions, outputs, strict=True)
    ]


def program_joined(
    predictor: Any, runtime: Any, arrays: Sequence[Mapping[str, np.ndarray]], states: Sequence[State]
) -> list[tuple[dict[str, Array], State]]:
    """Run the program of several streams, a row each, in as few calls as the graph allows; see `Predictor.program_many`."""
    found: list[tuple[dict[str, Array], State]] = []
    fixed = _fixed_batch(predictor)
    most = fixed or len(arrays)
    for begin in range(0, len(arrays), most or 1):
        group = list(range(begin, min(begin + most, len(arrays))))
        # a file for N streams gets N: what fills it up is computed and not used
        filled = group + group[:1] * (fixed - len(group))
        stacked = {name: np.concatenate([arrays[i][name] for i in filled]) for name in arrays[group[0]]}
        answers, following = predictor.program(runtime, stacked, State.stack([states[i] for i in filled]))
        kept = following.split() or [State()] * len(filled)
        found.extend(
            ({name: array[row : row + 1] for name, array in answers.items()}, kept[row]) for row in range(len(group))
        )
    return found


def _fixed_batch(predictor: Any) -> int:
    """How many streams the graph takes, no more and no fewer; 0 for any number."""
    shapes = [spec.inputs[0].shape for spec in predictor.metadata.graphs.values() if spec.inputs]
    first = shapes[0][0] if shapes and shapes[0] else 0
    return first if isinstance(first, int) else 0
