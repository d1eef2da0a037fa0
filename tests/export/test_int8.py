"""Quantising a small model whose answers hang on its state: what is measured, what is kept in float, what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from colours import COLOURS, changing, clip, colour_model, hurry, steady
from effvision import TSM
from effvision.errors import DTypeError, EffvisionError, ExportError, InputError, SourceError
from effvision.export import Int8, int8, int8_streams
from effvision.export.agreement import agreement
from effvision.export.int8_graph import find_form
from effvision.export.int8_report import Int8Report
from effvision.export.int8_streams import record, split, time_ratio
from effvision.export.precision import FORMS, RULES, Form
from effvision.metadata import GraphSpec
from effvision.runtime.onnx import OnnxRuntime, open_session
from effvision.sources.files import labelled_folder
from refusals import refused
from waiting import best_of_three

ENOUGH = 24
real_time_ratio = time_ratio


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@lru_cache
def float_graph(*spoilt: str, huge: float = 1000.0) -> tuple[TSM, ModelProto, GraphSpec]:
    """A model, its checked float graph, and that graph's description."""
    import tempfile

    model = colour_model(spoilt=spoilt, huge=huge)
    with tempfile.TemporaryDirectory() as folder:
        graph = onnx.load(model.export(Path(folder) / "m.onnx"))
    del graph.metadata_props[:]
    spec = model.metadata.graphs["step"]
    tensors = [replace(spec.inputs[0], shape=(1, *spec.inputs[0].shape[1:]))]
    return model, graph, replace(spec, inputs=tuple(tensors))


def make(how: Int8, *spoilt: str, **options: Any) -> tuple[ModelProto, Int8Report]:
    return int8.make_int8(*float_graph(*spoilt, **options), how)


def session(graph: ModelProto) -> Any:
    return open_session(graph.SerializeToString())


def test_answers_where_there_should_be_nothing_but_zeros_are_far_off() -> None:
    _, graph, spec = float_graph()
    silent = ModelProto()
    silent.CopyFrom(graph)
    for tensor in silent.graph.initializer:
        if len(tensor.dims) and tensor.data_type == 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
    zeros = {state.input: np.zeros((1, *state.shape), np.float32) for state in spec.states}
    frame = changing(1)[0][:1].transpose(0, 3, 1, 2).astype(np.float32)
    stream = [{spec.inputs[0].name: frame, **zeros}]
    assert agreement(session(silent), session(graph), [stream], spec).relative_rms == np.inf
    assert agreement(session(silent), session(silent), [stream], spec).relative_rms == 0


def answers(graph: ModelProto, spec: GraphSpec, source: np.ndarray) -> np.ndarray:
    """The logits of each frame, by a session of the predictor."""
    model = TSM(OnnxRuntime({"step": session(graph)}, {"step": spec}), float_graph()[0].metadata)
    stream = model.session(smoothing=None)
    return np.array([stream.update(frame).logits for frame in source])  # type: ignore[attr-defined]


# --- what is measured -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_report_says_what_a_recount_finds(form: Form) -> None:
    _, graph, spec = float_graph()
    clips = changing(9)
    made, report = make(Int8(form, calibration=clips, labelled=steady()))
    assert find_form(made) == form == report.form and not report.refused
    assert (report.calibration_steps, report.judged_steps, report.answers) == (6 * 12, 3 * 12, 3 * 12)
    before, after = (np.concatenate([answers(g, spec, c) for c in clips[2::3]]) for g in (graph, made))
    assert report.same == (before.argmax(1) == after.argmax(1)).sum()
    relative = np.sqrt(((before - after) ** 2).sum() / (before**2).sum())
    assert report.relative_rms == pytest.approx(relative, abs=2e-5) and 0 < relative < 0.05
    assert (report.labelled, report.right_float, report.right_int8) == (4, 4, 4)
    assert report.float_size == len(graph.SerializeToString()) and report.size == len(made.SerializeToString())
    assert set(report.rules) == set(RULES) and report.rules[report.rule] == min(report.rules.values())
    assert [layer.name.split(".")[2] for layer in report.layers] and len(report.layers) == 4
    assert report.kept_float == 0 and all(layer.error <= 0.05 for layer in report.layers)
    errors = [layer.error for layer in report.layers]
    assert errors == sorted(errors, reverse=True)
    assert (report.time_ratio is None) == (form == "tensorrt")


@pytest.mark.parametrize("form", FORMS)
def test_each_rule_can_be_asked_for(form: Form) -> None:
    for rule in RULES:
        _, report = make(Int8(form, calibration=changing(6), rule=rule))
        assert report.rule == rule and list(report.rules) == [rule]


@pytest.mark.parametrize("form", FORMS)
def test_answers_that_hang_on_the_state_are_right_and_a_state_wired_wrongly_shows(form: Form) -> None:
    model, graph, spec = float_graph()
    made, _ = make(Int8(form, calibration=changing(6)))
    names = ["red", "red", "green", "blue", "dark", "red", "blue"]
    said = answers(made, spec, clip(names)).argmax(1)
    assert [list(COLOURS)[place] for place in said[2:]] == names[:-2], "the colour of two frames ago"
    streams = record(model, changing(3, seed=50), "step")
    assert agreement(session(graph), session(made), streams, spec).share > 0.95
    first, second = spec.states
    crossed = replace(spec, states=(replace(first, output=second.output), replace(second, output=first.output)))
    forgetful = replace(spec, states=())
    for wrong in (crossed, forgetful):
        runs = {id(s): s for s in (session(graph), session(made))}
        right, other = (
            np.concatenate([carried(run, s, stream) for stream in streams])
            for run, s in zip(runs.values(), (spec, wrong), strict=True)
        )
        assert (right.argmax(1) == other.argmax(1)).mean() < 0.7


def carried(run: Any, spec: GraphSpec, stream: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Logits of a stream, with the states fed back as `spec` says; those it does not name stay as they began."""
    held, found = dict(stream[0]), []
    for feed in stream:
        given = {**held, "frame": feed["frame"]}
        outputs = dict(zip([o.name for o in run.get_outputs()], run.run(None, given), strict=True))
        held |= {state.input: outputs[state.output] for state in spec.states}
        found.append(outputs["logits"][0])
    return np.array(found)


def test_what_is_recorded_is_what_the_graph_was_given_with_its_states() -> None:
    model, graph, spec = float_graph()
    source = changing(1, length=30)[0]
    (stream,) = record(model, [source], "step")
    assert len(stream) == 30 and not any(stream[0][state.input].any() for state in spec.states)
    run = session(graph)
    for before, after in pairwise(stream):
        outputs = dict(zip([o.name for o in run.get_outputs()], run.run(None, before), strict=True))
        for state in spec.states:
            np.testing.assert_allclose(after[state.input], outputs[state.output], atol=1e-5)
            assert after[state.input] is not before[state.input]


def test_many_sources_are_taken_from_all_over_and_each_long_enough_for_its_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(int8_streams, "MOST_STEPS", 64)
    model = float_graph()[0]
    names = [name for name in COLOURS for _ in range(4)]
    streams = record(model, [clip([name] * 20) for name in names], "step")
    assert [len(stream) for stream in streams] == [16] * 4
    seen = [stream[0]["frame"].mean((0, 2, 3)).argmax() for stream in streams[:3]]
    assert seen == [0, 1, 2], "one of each colour, though they are sorted by colour"
    assert sum(map(len, record(model, [clip(["red", "blue"] * 60)], "step"))) == 64


@pytest.mark.parametrize(
    ("lengths", "fitted", "judged"),
    [
        ([6] * 9, [6] * 6, [6] * 3),
        ([30], [20], [10]),
        ([30, 3], [20, 2], [10, 1]),
        ([30, 1], [20, 1], [10]),
        ([30, 30, 1], [20, 20, 1], [10, 10]),  # every third would leave one step to judge by
        ([2, 2, 60], [1, 1, 40], [1, 1, 20]),
    ],
)
def test_judged_is_what_was_not_calibrated_on(lengths: list[int], fitted: list[int], judged: list[int]) -> None:
    streams: Any = [[{"x": np.array([place, step])} for step in range(n)] for place, n in enumerate(lengths)]
    one, other = split(streams)
    assert ([len(s) for s in one], [len(s) for s in other]) == (fitted, judged)
    seen = [tuple(feed["x"]) for stream in (*one, *other) for feed in stream]
    assert len(set(seen)) == len(seen) == sum(lengths)


@pytest.mark.alone
def test_the_clock_takes_turns_and_tells_which_is_slower() -> None:
    class Sleeper:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def run(self, names: None, feed: Any) -> None:
            time.sleep(self.seconds)

    def measure() -> None:
        ratio, first, second = real_time_ratio(Sleeper(0.001), Sleeper(0.003), [{}])
        assert 1.5 < ratio < 4 and first < second
        assert real_time_ratio(Sleeper(0.003), Sleeper(0.001), [{}])[0] < 1

    best_of_three(measure)


# --- what is kept in float, and what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_that_int8_would_spoil_stays_in_float_and_the_report_names_it(form: Form) -> None:
    made, report = make(Int8(form, calibration=changing(9), labelled=steady()), "8")
    assert not report.refused and report.kept_float == 1 and report.right_int8 == 4
    worst = report.layers[0]
    assert worst.kept_float and worst.operator == "Gemm" and ".8" in worst.name and worst.error > 0.5
    assert f"{worst.name} {worst.error:.3f} (float)" in str(report) and "3 of 4 layers" in str(report)
    assert report.summary()["int8"]["kept_float"] == [worst.name]
    gemm = next(node for node in made.graph.node if node.op_type == "Gemm")
    held = {tensor.name: tensor for tensor in made.graph.initializer}
    assert held[gemm.input[1]].data_type == onnx.TensorProto.FLOAT


def test_more_spoilt_layers_than_may_stay_are_refused_with_the_numbers() -> None:
    message = refused(
        lambda: make(Int8("cpu", calibration=changing(9), labelled=steady()), "4", "8"),
        "int8 is refused: accuracy falls from 4 to", "of 4 (", "points; 1 allowed)", "most sensitive layers", "REFUSED",
        kind=ExportError,
    )  # fmt: skip
    assert message.splitlines()[-1] == "hint: keep the float file"


def test_without_labels_answers_that_differ_are_refused_and_force_makes_it_all_the_same() -> None:
    how = Int8("tensorrt", calibration=changing(9))
    message = refused(
        lambda: make(how, "4", "8"), "answers differ", "1% allowed where no labels judge", kind=ExportError
    )
    made, report = make(replace(how, force=True), "4", "8")
    assert find_form(made) == "tensorrt" and len(report.refused) == 2 and report.refused[0] in message
    assert f"REFUSED: {report.refused[0]}" in str(report)
    assert report.same < 0.9 * report.answers and report.to_dict()["refused"] == report.refused


def test_what_is_not_faster_here_is_refused_and_tensorrt_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "time_ratio", lambda first, second, feeds: (1.25, 2.0, 2.5))
    how = Int8("cpu", calibration=changing(6), labelled=steady())
    refused(lambda: make(how), "it takes 1.25 of the float model's time on this machine", kind=ExportError)
    _, report = make(replace(how, force=True))
    assert (report.time_ratio, report.float_ms, report.int8_ms) == (1.25, 2.0, 2.5)
    assert "1.25 of the time, in turns" in str(report) and len(report.refused) == 1
    _, report = make(replace(how, form="tensorrt"))
    assert report.time_ratio is None and "only TensorRT shows" in str(report)


def test_what_goes_on_is_told() -> None:
    told: list[str] = []
    int8.make_int8(*float_graph(), Int8("cpu", calibration=changing(6)), notify=told.append)
    assert told[0] == "gathering streams" and told[-1] == "timing" and len(told) == len(set(told)) == 6


# --- data -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder a colour, with a folder of pictures in each."""
    import cv2

    for frames, name in steady():
        place = tmp_path / "judge" / name / "one"
        place.mkdir(parents=True)
        for index, frame in enumerate(frames):
            cv2.imwrite(str(place / f"{index}.png"), frame[..., ::-1])
    return tmp_path / "judge"


def test_a_folder_with_one_folder_a_label_judges(recordings: Path, tmp_path: Path) -> None:
    found = labelled_folder(recordings)
    assert found == [(str(recordings / name / "one"), name) for name in sorted(COLOURS)]
    paths = [path for path, _ in found]
    _, report = make(Int8("cpu", calibration=[*paths, *changing(2)], labelled=found))
    assert (report.labelled, report.right_float, report.right_int8) == (4, 4, 4)
    (recordings / "mauve").mkdir()
    with pytest.raises(SourceError, match="mauve is empty"):
        labelled_folder(recordings)
    (recordings / "mauve" / "x.png").write_bytes(b"")
    refused(
        lambda: colour_model().export(
            tmp_path / "m.onnx", int8=Int8("cpu", calibration=changing(6), labelled=labelled_folder(recordings))
        ),
        "the labels mauve are none of the model's: red, green, blue, dark",
        kind=InputError,
    )


@pytest.mark.parametrize("name", ["no such folder", "empty", "file"])
def test_what_is_no_folder_of_labels_is_an_error_that_shows_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    refused(lambda: labelled_folder(tmp_path / name), "LABEL/clip.mp4", kind=SourceError)


BAD: dict[str, tuple[Callable[[], Any], type[EffvisionError], str]] = {
    "too few": (lambda: changing(3, length=7), InputError, "3 sources gave 21 steps of the network; int8 needs 24"),
    "even": (lambda: [np.full((30, 32, 32, 3), 90, np.uint8)], InputError, "one even surface"),
    "alike": (lambda: [clip(["red"])[[0] * 30]], InputError, "the same picture again and again"),
    "no number": (lambda: [np.full((30, 32, 32, 3), np.nan)], EffvisionError, ""),
    "not there": (lambda: ["no/such/clip.mp4"], SourceError, "no/such/clip.mp4"),
    "no frames": (lambda: [np.zeros((0, 32, 32, 3), np.uint8)], EffvisionError, ""),
    "nothing a source can be": (lambda: [7.5], EffvisionError, ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_calibration_data_that_say_too_little_are_refused(kind: str) -> None:
    data, error, said = BAD[kind]
    with pytest.raises(error) as caught:
        make(Int8("cpu", calibration=data()))
    assert said in str(caught.value)


def test_the_real_least_number_of_steps_is_the_one_that_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    refused(
        lambda: make(Int8("cpu", calibration=changing(15))), "15 sources gave 180 steps", "needs 192", kind=InputError
    )
    assert f"at least {int8_streams.LEAST_STEPS} steps" in (Int8.__doc__ or "")


def test_a_network_that_makes_no_numbers_of_the_data_is_named() -> None:
    model, graph, spec = float_graph()
    broken = ModelProto()
    broken.CopyFrom(graph)
    weights = next(t for t in broken.graph.initializer if ".0.weight" in t.name)
    weights.raw_data = np.full(list(weights.dims), np.inf, np.float32).tobytes()
    refused(
        lambda: int8.make_int8(model, broken, spec, Int8("cpu", calibration=changing(6))),
        "infinite numbers or NaN (in `",
        kind=InputError,
    )


def test_weights_that_nothing_here_renders_data_for_ask_for_recordings() -> None:
    message = refused(lambda: make(Int8("cpu")), "not trained on pictures that can be rendered", kind=InputError)
    assert "--calibrate" in message


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"form": "gpu"}, InputError, "must be one of cpu, tensorrt; got 'gpu'"),
        ({"form": True}, InputError, "must be one of"),
        ({"rule": "entropy"}, InputError, "`rule` must be one of mse, minmax, percentile"),
        ({"calibration": []}, InputError, "`calibration` is empty"),
        ({"calibration": "clip.mp4"}, DTypeError, "hint: [source] for one"),
        ({"calibration": np.zeros((30, 8, 8, 3), np.uint8)}, DTypeError, "must be a list; got ndarray"),
        ({"labelled": []}, InputError, "`labelled` is empty"),
        ({"labelled": ["clip.mp4"]}, DTypeError, "(source, label) pairs"),
        ({"labelled": [("clip.mp4", 3)]}, DTypeError, "(source, label) pairs"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    options: dict[str, Any], error: type[EffvisionError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        float_graph()[0].export(tmp_path / "m.onnx", int8=Int8(**{"form": "cpu", **options}))
    assert said in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"int8": "gpu"}, "must be one of"),
        ({"int8": "cpu", "half": True}, "two precisions"),
        ({"int8": "cpu", "opset": 18}, "int8 files have opset 17 or older; got 18"),
        ({"int8": "cpu", "opset": "17"}, "`opset` must be 13 to 20"),
    ],
)
def test_precisions_that_do_not_go_together_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        float_graph()[0].export(tmp_path / "m.onnx", **options)
    assert said in str(caught.value) and list(tmp_path.iterdir()) == []
