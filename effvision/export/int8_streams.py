"""Real streams for quantisation: what a graph was given while its predictor worked, split, judged by labels and timed."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from effvision.errors import InputError
from effvision.export.agreement import Feed, Stream
from effvision.export.precision import Labelled
from effvision.results import Classification
from effvision.runtime import Runtime
from effvision.state import Array

__all__ = [
    "LEAST_CLIPS",
    "LEAST_STEPS",
    "MOST_STEPS",
    "all_feeds",
    "count_right",
    "record",
    "split",
    "time_ratio",
]

LEAST_STEPS = 192  # two thirds to calibrate on
LEAST_CLIPS = 48  # of graphs without a state, which take a whole clip at once
MOST_STEPS = 768
_MOST_BYTES = 1_000_000_000  # of recorded inputs and states, in memory
_SHORT = 16  # fewer steps of a source show little of what its state becomes
_ROUNDS, _BLOCK = 15, 8


class _Enough(Exception):
    """Enough steps were recorded; leaves a predictor that is in the middle of a source."""


class _Recorder(Runtime):
    """Passes everything on and keeps what the graph was given."""

    def __init__(self, inner: Runtime, graph: str, most: int, most_bytes: int) -> None:
        self.name, self.device, self.graphs = inner.name, inner.device, inner.graphs
        self.feeds: Stream = []
        self._inner, self._graph, self._most, self._left = inner, graph, most, most_bytes

    def run(self, graph: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph and keep what it was given; see `Runtime.run`."""
        if graph == self._graph:
            if len(self.feeds) == self._most or self._left < 0:
                raise _Enough
            self._left -= sum(int(array.nbytes) for array in arrays.values())
            self.feeds.append({name: _copy(array) for name, array in arrays.items()})  # states may be overwritten
        return self._inner.run(graph, arrays)

    def multiply_adds(self, graph: str, batch: int) -> int:
        """See `Runtime.multiply_adds`."""
        return self._inner.multiply_adds(graph, batch)


def _copy(array: Array) -> np.ndarray:
    return np.array(array.detach().cpu().numpy() if hasattr(array, "detach") else array)


def record(predictor: Any, sources: Sequence[Any], graph: str) -> list[Stream]:
    """Let a predictor work on sources and keep what its graph was given; at most `MOST_STEPS` in all.

    Raises:
        InputError: they are too few steps, or all alike, to say which numbers come through in use.
        SourceError: a source cannot be read.
    """
    streams: list[Stream] = []
    most = max(_SHORT, MOST_STEPS // max(1, len(sources)))
    left = _MOST_BYTES
    for source in _spread(sources, MOST_STEPS // _SHORT):
        most = min(most, MOST_STEPS - sum(len(stream) for stream in streams))
        if most == 0:
            break
        share = left // max(1, min(len(sources), MOST_STEPS // _SHORT) - len(streams))
        recorder = _Recorder(predictor.runtime, graph, most, share)
        with contextlib.suppress(_Enough):
            type(predictor)(recorder, predictor.metadata).predict(source)
        if recorder.feeds:
            streams.append(recorder.feeds)
            left -= sum(array.nbytes for feed in recorder.feeds for array in feed.values())
        if left <= 0:
            break
    steps = sum(len(stream) for stream in streams)
    streaming = bool(predictor.metadata.graphs[graph].states)
    least = LEAST_STEPS if streaming else LEAST_CLIPS
    if steps < least:
        if left <= 0:
            raise InputError(
                f"{steps} steps of this network's input fill {_MOST_BYTES / 1e9:g} GB, and int8 needs {least}\n"
                "hint: quantise it for smaller pictures"
            )
        more = "more, or longer, recordings" if streaming else f"{least} or more recordings, one step each,"
        raise InputError(
            f"{len(sources)} sources gave {steps} steps of the network; int8 needs {least} or more to know which "
            f"numbers come through\nhint: give {more} of what the model will see"
        )
    first = predictor.metadata.graphs[graph].inputs[0].name
    if not any(feed[first].std() > 0 for stream in streams for feed in stream):
        raise InputError("the calibration data are one even surface\nhint: give recordings of what the model will see")
    if all((feed[first] == streams[0][0][first]).all() for stream in streams for feed in stream):
        raise InputError(
            "the calibration data are the same picture again and again\nhint: give recordings in which something happens"
        )
    return streams


def _spread(sources: Sequence[Any], count: int) -> list[Any]:
    """Order sources so that the first `count` are from all over them, which may be sorted by what they show."""
    stride = -(-len(sources) // count)
    return [source for first in range(stride) for source in sources[first::stride]]


def split(streams: list[Stream]) -> tuple[list[Stream], list[Stream]]:
    """Return streams to calibrate on and streams to judge by: every third, or the last third of each.

    The latter where they are few, or of such lengths that every third is much less, or much more, than a third of the steps.
    """
    lengths = [len(stream) for stream in streams]
    if len(streams) >= 3 and 1 / 6 <= sum(lengths[2::3]) / sum(lengths) <= 1 / 2:
        return [stream for place, stream in enumerate(streams) if place % 3 != 2], streams[2::3]
    cut = [max(1, len(stream) * 2 // 3) for stream in streams]
    pairs = list(zip(streams, cut, strict=True))
    return [stream[:at] for stream, at in pairs], [stream[at:] for stream, at in pairs if stream[at:]]


def count_right(predictor: Any, runtime: Runtime, labelled: Sequence[Labelled]) -> int:
    """Count the sources whose label the predictor names when it works with `runtime`."""
    model = type(predictor)(runtime, predictor.metadata)
    right = 0
    for source, label in labelled:
        result = model.predict(source)
        if not isinstance(result, Classification):
            raise InputError(f"labelled data are for models that classify; this one answers {type(result).__name__}")
        right += result.label == label
    return right


def time_ratio(first: Any, second: Any, feeds: Sequence[Feed]) -> tuple[float, float, float]:
    """Time two sessions in turns; return the median over rounds of second / first, and the median milliseconds of each."""
    rounds: list[tuple[float, float]] = []
    for turn in range(_ROUNDS + 2):
        spent = {}
        for session in (first, second) if turn % 2 else (second, first):
            session.run(None, feeds[0])  # takes the caches back
            times = []
            for step in range(_BLOCK):
                started = time.perf_counter()
                session.run(None, feeds[(turn * _BLOCK + step) % len(feeds)])
                times.append(time.perf_counter() - started)
            spent[id(session)] = statistics.median(times) * 1e3
        rounds.append((spent[id(first)], spent[id(second)]))
    kept = rounds[2:]  # the first ones warm up
    ratio = statistics.median(b / a for a, b in kept)
    return ratio, statistics.median(a for a, _ in kept), statistics.median(b for _, b in kept)


def all_feeds(streams: Iterable[Stream]) -> Iterator[Feed]:
    """Yield every step of every stream."""
    for stream in streams:
        yield from stream
