"""From a checked float graph to one that computes on int8, measured before it is kept.

Ranges come from real streams with the states they had; each layer's harm is measured alone, and as many of the most harmful
ones stay in float as the answers need. What comes out is judged on streams that were not calibrated on, against labels where
there are some, and against the clock of this machine. If it is worse than allowed, it is refused, with the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from onnx import ModelProto

from effvision._optional import require
from effvision.errors import ExportError, InputError
from effvision.export._graphs import copy_of, showing
from effvision.export.agreement import Agreement, Feed, Stream, agreement
from effvision.export.int8_graph import int8_layers, quantise, ranged_tensors
from effvision.export.int8_ranges import Counts, Range
from effvision.export.int8_report import Int8Report, Layer
from effvision.export.int8_streams import all_feeds, count_right, record, split, time_ratio
from effvision.export.precision import RULES, Form, Int8, Labelled
from effvision.metadata import GraphSpec
from effvision.runtime.onnx import OnnxRuntime, open_session

__all__ = ["make_int8"]

MOST_LOST = 0.01
"""Share of right answers that int8 may cost; without labels, share of answers that may differ, which bounds it."""
LEAST_SAME = 0.98
"""Share of answers that must equal the float model's where labels say that the others do no harm."""
MOST_RMS = 0.1
"""Relative rms error of the answers that is allowed, however many are equal."""
FASTER = 0.97
"""Share of the float model's time that counts as faster: less than the clock's own noise is no gain."""
ENOUGH_LABELLED = 100
"""Labelled sources from which on a point of accuracy can be counted."""
_PROBED_STEPS = 32
_TIMED_STEPS = 64
_COUNTED_STEPS = 128  # of those calibrated on; the extents are those of all

Notify = Callable[[str], None]


def make_int8(
    predictor: Any, model: ModelProto, spec: GraphSpec, how: Int8, *, notify: Notify = lambda text: None
) -> tuple[ModelProto, Int8Report]:
    """Quantise a float graph and judge the result.

    Args:
        predictor: Whose graph it is; it works on the sources.
        model: Checked against PyTorch; for one stream a call, or any number.
        spec: Names of its in- and outputs.
        how: Form, data and limits.
        notify: Told what is going on.

    Raises:
        InputError: too little or unfit data.
        ExportError: refused, with the numbers; or the graph cannot be quantised.
    """
    require("onnxruntime", extra="onnx")
    work = _Work(predictor, model, spec, how.form)
    notify("gathering streams")
    labelled = _labelled(predictor, how)
    fitted, judged = split(record(predictor, _sources(predictor, how), spec.name))
    notify("counting what comes through each layer")
    counts = work.count(fitted)
    notify("comparing rules")
    tried = {rule: counts.ranges(rule, symmetric=how.form == "tensorrt") for rule in RULES if how.rule in (None, rule)}
    errors = {rule: work.judge(ranges, work.layers, judged)[1].relative_rms for rule, ranges in tried.items()}
    rule = min(errors, key=errors.__getitem__)
    notify("measuring each layer alone")
    alone = work.alone(tried[rule], judged)
    notify("judging")
    kept, quantised, found, right = work.search(tried[rule], alone, judged, labelled)
    report = Int8Report(
        form=how.form,
        rule=rule,
        rules={name: round(error, 5) for name, error in errors.items()},
        calibration_steps=sum(map(len, fitted)),
        judged_steps=sum(map(len, judged)),
        same=found.same,
        answers=found.answers,
        relative_rms=round(found.relative_rms, 5),
        recordings="rendered" if how.calibration is None else "given",
        labelled=len(labelled),
        right_float=right[0],
        right_int8=right[1],
        layers=tuple(work.layer(name, error, kept) for name, error in alone.items()),
        float_size=model.ByteSize(),
        size=quantised.ByteSize(),
    )
    if how.form == "cpu":
        notify("timing")
        report = _timed(report, model, quantised, list(islice(all_feeds(judged), _TIMED_STEPS)))
    report = replace(report, refused=tuple(_reasons(report)))
    if report.refused and not how.force:
        raise ExportError(f"int8 is refused: {'; '.join(report.refused)}\n{report}\nhint: keep the float file")
    return quantised, report


def _timed(report: Int8Report, model: ModelProto, quantised: ModelProto, feeds: Sequence[Feed]) -> Int8Report:
    ratio, before, after = time_ratio(_open(model, spin=True), _open(quantised, spin=True), feeds)
    return replace(report, time_ratio=round(ratio, 3), float_ms=round(before, 3), int8_ms=round(after, 3))


def _labelled(predictor: Any, how: Int8) -> Sequence[Labelled]:
    if how.labelled is not None:
        return how.labelled
    if how.calibration is not None:
        return ()  # the user's own data say what the model is for; rendered ones would say something else
    return list(predictor.rendered_examples("judge") or ())


def _sources(predictor: Any, how: Int8) -> Sequence[Any]:
    if how.calibration is not None:
        return how.calibration
    rendered = predictor.rendered_examples("calibrate")
    if rendered is None:
        raise InputError(
            f"{predictor.metadata.card or 'this network'} was not trained on pictures that can be rendered here, and int8 "
            "needs what the model will see\nhint: give recordings, as `calibration=[...]` or `--calibrate clip.mp4 ...`"
        )
    return [source for source, _ in rendered]


def _reasons(report: Int8Report) -> list[str]:
    reasons = []
    differ, share = report.answers - report.same, report.same / max(1, report.answers)
    if report.labelled:
        lost = (report.right_float - report.right_int8) / report.labelled
        if lost > MOST_LOST:
            reasons.append(
                f"accuracy falls from {report.right_float} to {report.right_int8} of {report.labelled} "
                f"({lost * 100:.1f} points; {MOST_LOST * 100:.0f} allowed)"
            )
    allowed = _may_differ(report.labelled)
    if differ > allowed * report.answers:
        few = (
            ""
            if report.labelled >= ENOUGH_LABELLED
            else f" where {'too few' if report.labelled else 'no'} labels judge"
        )
        reasons.append(f"{differ} of {report.answers} answers differ ({1 - share:.1%}; {allowed:.0%} allowed{few})")
    if not report.relative_rms <= MOST_RMS:  # NaN too
        reasons.append(f"the answers are off by {report.relative_rms:.3f} in relative rms ({MOST_RMS:g} allowed)")
    if report.time_ratio is not None and report.time_ratio > FASTER:
        reasons.append(
            f"it takes {report.time_ratio:.2f} of the float model's time on this machine, and only {FASTER:g} or less is faster"
        )
    return reasons


def _may_differ(labelled: int) -> float:
    """Return the share of answers that may differ from the float model's."""
    return 1 - LEAST_SAME if labelled >= ENOUGH_LABELLED else MOST_LOST


class _Work:
    """One float graph, its session, and what is tried with it."""

    def __init__(self, predictor: Any, model: ModelProto, spec: GraphSpec, form: Form) -> None:
        self.model = copy_of(model)
        self.predictor, self.spec, self.form = predictor, spec, form
        self.layers = int8_layers(self.model)
        if not self.layers:
            raise ExportError(
                "the graph has no convolution and no matrix product with constant weights: nothing for int8"
            )
        self.session = _open(self.model)
        self._nodes = {node.name: node for node in self.model.graph.node}

    def layer(self, name: str, error: float, kept: set[str]) -> Layer:
        """Describe one layer; its weight's name says where it is."""
        node = self._nodes[name]
        return Layer(node.input[1].removesuffix(".weight"), node.op_type, round(error, 5), name in kept)

    def right(self, session: Any, labelled: Sequence[Labelled]) -> int:
        """Count the labelled sources that are classified rightly with this session."""
        if not labelled:
            return 0
        runtime = OnnxRuntime({self.spec.name: session}, {self.spec.name: self.spec})
        return count_right(self.predictor, runtime, labelled)

    def count(self, streams: Sequence[Stream]) -> Counts:
        """Run the float graph over recorded steps with every activation as an output."""
        wanted = ranged_tensors(self.model)
        session = _open(showing(self.model, wanted))
        names = [output.name for output in session.get_outputs()]

        def tensors(feed: Feed) -> dict[str, np.ndarray]:
            everything = {**feed, **dict(zip(names, session.run(None, feed), strict=True))}
            return {name: everything[name] for name in wanted}

        counts = Counts()
        for feed in all_feeds(streams):
            counts.see(tensors(feed))
        feeds = list(all_feeds(streams))
        for feed in feeds[:: max(1, len(feeds) // _COUNTED_STEPS)]:
            counts.count(tensors(feed))
        return counts

    def judge(
        self, ranges: dict[str, Range], layers: Sequence[str], streams: Sequence[Stream]
    ) -> tuple[ModelProto, Agreement]:
        """Quantise these layers and compare the answers."""
        quantised = quantise(self.model, ranges, layers, self.form)
        return quantised, agreement(self.session, _open(quantised), streams, self.spec)

    def alone(self, ranges: dict[str, Range], streams: Sequence[Stream]) -> dict[str, float]:
        """Error of the answer when one layer alone is quantised, the most harmful first; states as recorded."""
        feeds = list(all_feeds(streams))
        feeds = feeds[:: max(1, len(feeds) // _PROBED_STEPS)][:_PROBED_STEPS]
        answer = self.spec.outputs[0].name
        wanted = [np.asarray(self.session.run([answer], feed)[0], np.float64) for feed in feeds]
        power = sum(float((value**2).sum()) for value in wanted) or 1.0
        errors = {}
        for layer in self.layers:
            session = _open(quantise(self.model, ranges, [layer], self.form))
            apart = sum(
                float(((np.asarray(session.run([answer], feed)[0], np.float64) - value) ** 2).sum())
                for feed, value in zip(feeds, wanted, strict=True)
            )
            errors[layer] = (apart / power) ** 0.5
        return dict(sorted(errors.items(), key=lambda item: -item[1]))

    def search(
        self,
        ranges: dict[str, Range],
        alone: dict[str, float],
        streams: Sequence[Stream],
        labelled: Sequence[Labelled],
    ) -> tuple[set[str], ModelProto, Agreement, tuple[int, int]]:
        """Keep none, one, two, four, ... of the most sensitive layers in float until it is good enough; a third at most.

        If nothing is, the best that was tried comes back.
        """
        order, tried = list(alone), 0
        right = self.right(self.session, labelled)
        best: tuple[set[str], ModelProto, Agreement, tuple[int, int]] | None = None
        while True:
            kept = set(order[:tried])
            quantised, found = self.judge(ranges, [name for name in self.layers if name not in kept], streams)
            right_int8 = self.right(_open(quantised), labelled)
            trial = kept, quantised, found, (right, right_int8)
            if best is None or (right_int8, found.share) > (best[3][1], best[2].share):
                best = trial
            enough = found.answers - found.same <= _may_differ(len(labelled)) * found.answers
            if enough and found.relative_rms <= MOST_RMS and right - right_int8 <= MOST_LOST * len(labelled):
                return trial
            tried = max(1, tried * 2)
            if tried > len(order) // 3:
                return best


def _open(model: ModelProto, *, spin: bool = False) -> Any:
    return open_session(model.SerializeToString(deterministic=True), spin=spin)
