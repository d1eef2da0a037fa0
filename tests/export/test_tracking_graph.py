"""PatchNet as a file: plain operators, the same numbers as the convolutions in PyTorch, and each object by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from effvision import PatchNet
from effvision.errors import ExportError, InputError
from effvision.export._graphs import join_slices
from effvision.export.device_check import check_device
from effvision.export.half import make_half
from effvision.models.patchnet.network import PatchAggregate
from effvision.models.patchnet.program import Rows, run_rows
from effvision.runtime.onnx import OnnxRuntime, open_session
from effvision.state import State

ALLOWED = {
    "Add", "AveragePool", "Clip", "Concat", "Div", "Exp", "Gather", "Greater", "MatMul", "Mul", "Pow", "ReduceMax",
    "ReduceMean", "ReduceSum", "Reshape", "Slice", "Sqrt", "Sub", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
JETSONS = ("jp51", "jp60", "jp62", "jp72")
Feed = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> PatchNet:
    return PatchNet.untrained("patchnet-synthetic")


@pytest.fixture(scope="module")
def files(model: PatchNet, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {batch: Path(model.export(folder / f"{batch}.onnx", batch=batch)) for batch in ("dynamic", 1, 4)}


@pytest.fixture(scope="module")
def dynamic(files: dict[Any, Path]) -> OnnxRuntime:
    return OnnxRuntime.load(files["dynamic"])[0]


@pytest.fixture(scope="module")
def halved(model: PatchNet, files: dict[Any, Path]) -> tuple[OnnxRuntime, Any]:
    spec = model.metadata.graphs["step"]
    half, report = make_half(onnx.load(files["dynamic"]), spec, model.example_inputs, judged=False, steps=8)
    return OnnxRuntime({"step": open_session(half.SerializeToString())}, {"step": spec}), report


def example(objects: int, *, seed: int = 0, reach: float = 130.0) -> tuple[Feed, State]:
    """Pictures of noise with some structure, and filters of an earlier template."""
    rng = np.random.default_rng(seed)

    def noise(*shape: int) -> np.ndarray:
        return rng.uniform(-reach, reach, (objects, *shape)).astype(np.float32)

    feed = {"search": noise(3, 119, 119), "template": noise(3, 64, 64), "refresh": np.zeros(objects, np.float32)}
    feed["search"][:, :, 30:94, 28:92] = feed["template"]
    return feed, State({"filters": noise(64, 3, 8, 8), "mean": noise(3) / 8})


def near(wanted: dict[str, Any], got: dict[str, Any], allowed: float) -> None:
    for name, value in wanted.items():
        apart = np.abs(np.asarray(got[name], np.float64) - np.asarray(value)).max()
        assert apart <= allowed * max(1e-3, np.abs(np.asarray(value)).max()), name


def test_the_file_is_small_and_made_of_plain_operators(files: dict[Any, Path]) -> None:
    for path in files.values():
        file = onnx.load(path)
        assert {
            node.op_type for node in file.graph.node
        } <= ALLOWED  # no Conv: its weights would change with every call
        assert len(file.graph.node) <= 125 and path.stat().st_size < 40_000
        assert file.opset_import[0].version == 17 and not [n for n in file.graph.node if n.domain]


@pytest.mark.parametrize("target", JETSONS)
def test_a_jetson_takes_it(files: dict[Any, Path], target: str) -> None:
    assert check_device(files[4], target).verdict == check_device(files[1], target).verdict == "ok"
    report = check_device(files["dynamic"], target)
    assert report.verdict == "limited" and ["open sizes" in problem.reason for problem in report.problems] == [True]


def test_the_oldest_jetson_refuses_only_the_opset(files: dict[Any, Path]) -> None:
    report = check_device(files[4], "jetson-nano")
    assert [problem.hint for problem in report.problems] == ["export with opset 13"]


@pytest.mark.parametrize("objects", [1, 4, 5])
def test_it_equals_the_convolutions_in_pytorch(model: PatchNet, dynamic: OnnxRuntime, objects: int) -> None:
    feed, state = example(objects)
    feed["refresh"][::2] = 1
    wanted, kept = model.runtime.step(feed, state.copy())
    got, following = dynamic.step(feed, state.copy())
    near(wanted, got, 1e-5)
    near(kept.numpy(), following.numpy(), 1e-5)


@settings(max_examples=6)
@given(asked=st.lists(st.booleans(), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_each_object_is_renewed_where_it_was_asked_for_and_nothing_else_changes(
    dynamic: OnnxRuntime, asked: list[bool], seed: int
) -> None:
    feed, state = example(len(asked), seed=seed)
    feed["refresh"][:] = asked
    outputs, following = dynamic.step(feed, state.copy())
    for row, renewed in enumerate(asked):
        own, alone = dynamic.step({name: array[row : row + 1] for name, array in feed.items()}, state.rows([row]))
        near({name: array[row : row + 1] for name, array in outputs.items()}, own, 1e-5)
        near(following.rows([row]).numpy(), alone.numpy(), 1e-6)
        for name in ("filters", "mean"):
            assert np.array_equal(following[name][row], state[name][row]) is not renewed


@pytest.mark.parametrize(("batch", "objects"), [(1, 3), (4, 3), (4, 9)])
def test_a_file_for_a_fixed_number_takes_any_number_in_groups(
    files: dict[Any, Path], dynamic: OnnxRuntime, batch: int, objects: int
) -> None:
    fixed = OnnxRuntime.load(files[batch])[0]
    feed, state = example(objects)
    feed["refresh"][1] = 1
    wanted, kept = dynamic.step(feed, state.copy())
    got, following = run_rows(fixed.step, Rows(feed, state.copy()), most=batch, fixed=True)
    near(wanted, got, 1e-5)
    near(kept.numpy(), following.numpy(), 1e-6)


# --- other precisions -------------------------------------------------------------------------------------------------


def test_half_precision_is_as_good_as_it_can_be_and_keeps_untouched_filters(
    dynamic: OnnxRuntime, halved: tuple[OnnxRuntime, Any]
) -> None:
    half, report = halved
    assert report.relative_rms < 2e-3 and report.largest < 20_000
    for reach in (150.0, 1.0):  # energies from 4 million to 60
        feed, state = example(3, reach=reach)
        feed["refresh"][0] = 1
        wanted, got = dynamic.step(feed, state.copy())[0], half.step(feed, state.copy())
        near(wanted, got[0], 1e-2)
        assert np.array_equal(got[1]["filters"][1:], state["filters"][1:])
        assert np.array_equal(got[1]["mean"][1:], state["mean"][1:])


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_picture_of_one_colour_has_nothing_in_it(
    dynamic: OnnxRuntime, halved: tuple[OnnxRuntime, Any], precision: str
) -> None:
    feed, state = example(2)
    feed["search"][:] = 0  # an object that left the frame; the other lost its template too
    state["mean"][:], state["filters"][1] = 0, 0
    outputs, _ = (dynamic if precision == "float32" else halved[0]).step(feed, state)
    assert not outputs["response"].any() and np.isfinite(outputs["offsets"]).all()


def test_half_precision_is_refused_where_numbers_go_beyond_it(model: PatchNet, files: dict[Any, Path]) -> None:
    loud = onnx.load(files["dynamic"])
    for tensor in loud.graph.initializer:
        if tensor.dims == [64, 64]:  # the map of a patch's frequencies
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 100, tensor.name))
    with pytest.raises(ExportError, match="float16 ends at 65504"):
        make_half(loud, model.metadata.graphs["step"], model.example_inputs, judged=False, steps=2)


def test_there_is_no_int8_and_no_file(model: PatchNet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this model is tracking of 1 graphs: keep float"):
        model.export(tmp_path / "model.onnx", int8="tensorrt")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_hand_set_matcher_has_the_same_graph(tmp_path: Path) -> None:
    report = PatchNet.from_network(PatchAggregate()).export(tmp_path / "model.onnx")
    operators = {node.op_type for node in onnx.load(report.path).graph.node}
    assert operators <= ALLOWED | {"MaxPool", "Expand", "ConstantOfShape", "Shape"}
    assert check_device(report.path, "jp51").passed


# --- Slices -----------------------------------------------------------------------------------------------------------


def sliced(*cuts: tuple[int, int, int, int], shown: bool = False) -> onnx.ModelProto:
    """A chain of Slices: start, end, axis, step of each; `shown`: the first is an output too."""
    nodes, constants, before = [], [], "x"
    for number, cut in enumerate(cuts):
        names = [f"{what}{number}" for what in ("start", "end", "axis", "step")]
        constants += [
            numpy_helper.from_array(np.array([value], np.int64), name) for name, value in zip(names, cut, strict=True)
        ]
        nodes.append(helper.make_node("Slice", [before, *names], [f"y{number}"]))
        before = f"y{number}"
    outputs = [helper.make_tensor_value_info(name, 1, [None] * 3) for name in ([before, "y0"] if shown else [before])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 7, 9])
    graph = helper.make_graph(nodes, "g", [x], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("cuts", "shown", "left"),
    [
        ([(1, 4, 0, 1), (2, 9, 2, 3), (0, 7, 1, 2)], False, 1),
        ([(1, 4, 0, 1), (2, 9, 2, 3)], True, 2),  # the first is asked for as well
        ([(1, 6, 1, 1), (1, 3, 1, 1)], False, 2),  # along one axis twice
        ([(1, 6, 1, 1), (1, 3, -1, 1)], False, 2),  # an axis counted from the end may be the same one
    ],
)
def test_slices_along_different_axes_become_one(
    cuts: list[tuple[int, int, int, int]], shown: bool, left: int, session_of: Callable[[onnx.ModelProto], Any]
) -> None:
    whole = sliced(*cuts, shown=shown)
    x = np.arange(5 * 7 * 9, dtype=np.float32).reshape(5, 7, 9)
    wanted = session_of(whole).run(None, {"x": x})
    join_slices(whole)
    onnx.checker.check_model(whole, full_check=True)
    assert [node.op_type for node in whole.graph.node] == ["Slice"] * left
    assert len(whole.graph.initializer) == 4 * left
    for one, other in zip(wanted, session_of(whole).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def session_of() -> Callable[[onnx.ModelProto], Any]:
    return lambda model: open_session(model.SerializeToString(), spin=False)
