"""ONNX files of detectors, made for tests: one that gives known numbers, one that finds the bright square in its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, np.uint8: TensorProto.UINT8}
NAMES = {0: "square", 1: "circle"}


def cells(size: tuple[int, int]) -> int:
    """Boxes that a network of strides 8, 16 and 32 gives for an input of this size."""
    return sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in (8, 16, 32))


def save(
    path: Path,
    nodes: Sequence[Any],
    *,
    inputs: Sequence[tuple[Sequence[int | str | None], Any]],
    outputs: Sequence[Sequence[int | str | None]],
    dtype: Any = np.float32,
    constants: Mapping[str, NDArray[Any]] | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write a graph with inputs `in0`, `in1`, ... and outputs `out0`, `out1`, ... of `dtype`."""
    graph = helper.make_graph(
        list(nodes),
        "detector",
        [helper.make_tensor_value_info(f"in{i}", TYPES[kind], shape) for i, (shape, kind) in enumerate(inputs)],
        [helper.make_tensor_value_info(f"out{i}", TYPES[dtype], shape) for i, shape in enumerate(outputs)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {key: str(value) for key, value in (metadata or {}).items()})
    onnx.save(model, str(path))
    return path


def says(
    path: Path,
    *answers: NDArray[Any],
    shape: Sequence[int | str | None] = (1, 3, 64, 96),
    takes: Any = np.float32,
    metadata: Mapping[str, object] | None = None,
    inputs: int = 1,
) -> Path:
    """Write a file that answers these arrays whatever the picture."""
    nodes = [helper.make_node("Identity", [f"answer{i}"], [f"out{i}"]) for i in range(len(answers))]
    return save(
        path,
        nodes,
        inputs=[(shape, takes)] * inputs,
        outputs=[answer.shape for answer in answers],
        dtype=answers[0].dtype.type,
        constants={f"answer{i}": answer for i, answer in enumerate(answers)},
        metadata=metadata,
    )


def finds_square(
    path: Path,
    *,
    layout: str = "v8",
    size: tuple[int, int] | None = (64, 96),
    dtype: Any = np.float32,
    metadata: Mapping[str, object] | None = None,
    open_size: tuple[int, int] = (640, 640),
) -> Path:
    """Write a file that answers the box of what is brighter than half, score 0.9, class 1 of two.

    With `size` None the file leaves its size open, and answers as many boxes as an input of `open_size` has.
    """
    rows, columns = size or open_size
    nodes = [helper.make_node("Cast", ["in0"], ["picture"], to=TensorProto.FLOAT)]
    nodes += [
        helper.make_node(
            "ReduceMin", ["picture"], ["least"], axes=[1], keepdims=0
        ),  # (1, H, W): white is bright everywhere
        helper.make_node("Greater", ["least", "half"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Shape", ["in0"], ["shape"]),
    ]
    for side, axis, other in (("y", 2, 2), ("x", 3, 1)):  # `other`: the axis of the mask that is reduced
        nodes += [
            helper.make_node("Gather", ["shape", f"axis{axis}"], [f"count_{side}"], axis=0),
            helper.make_node("Range", ["zero", f"count_{side}", "one"], [f"whole_{side}"]),
            helper.make_node("Cast", [f"whole_{side}"], [f"place_{side}"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["mask"], [f"any_{side}"], axes=[0, other], keepdims=0),
            helper.make_node("Greater", [f"any_{side}", "half"], [f"is_{side}"]),
            helper.make_node("Where", [f"is_{side}", f"place_{side}", "far"], [f"low_{side}"]),
            helper.make_node("ReduceMin", [f"low_{side}"], [f"{side}1"], axes=[0], keepdims=1),
            helper.make_node("Add", [f"place_{side}", "unit"], [f"after_{side}"]),
            helper.make_node("Where", [f"is_{side}", f"after_{side}", "unit"], [f"high_{side}"]),
            helper.make_node("ReduceMax", [f"high_{side}"], [f"{side}2"], axes=[0], keepdims=1),
            helper.make_node("Sub", [f"{side}2", f"{side}1"], [f"long_{side}"]),
            helper.make_node("Add", [f"{side}2", f"{side}1"], [f"sum_{side}"]),
            helper.make_node("Mul", [f"sum_{side}", "half"], [f"middle_{side}"]),
        ]
    count = 3 * cells((rows, columns)) if layout == "v5" else cells((rows, columns))
    constants = {
        "half": np.array(0.5, np.float32),
        "far": np.array(1e4, np.float32),
        "unit": np.array([1], np.float32),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "axis2": np.array(2, np.int64),
        "axis3": np.array(3, np.int64),
    }
    if layout == "end to end":
        nodes.append(helper.make_node("Concat", ["x1", "y1", "x2", "y2", "told"], ["row"], axis=0))
        nodes.append(helper.make_node("Reshape", ["row", "as_row"], ["table"]))
        nodes.append(helper.make_node("Pad", ["table", "pads"], ["full"]))
        constants |= {
            "told": np.array([0.9, 1], np.float32),
            "as_row": np.array([1, 1, 6], np.int64),
            "pads": np.array([0, 0, 0, 0, 299, 0], np.int64),
        }
        shape: tuple[int, ...] = (1, 300, 6)
    else:
        told = {"v5": [0.95, 0.1, 0.9 / 0.95]}.get(layout, [0.1, 0.9])
        nodes.append(helper.make_node("Concat", ["middle_x", "middle_y", "long_x", "long_y", "told"], ["row"], axis=0))
        nodes.append(helper.make_node("Reshape", ["row", "as_row"], ["table"]))
        nodes.append(helper.make_node("Expand", ["table", "all"], ["full"]))
        wide = 4 + len(told)
        upright = layout == "v8"
        shape = (1, wide, count) if upright else (1, count, wide)
        constants |= {
            "told": np.array(told, np.float32),
            "as_row": np.array([1, wide, 1] if upright else [1, 1, wide], np.int64),
            "all": np.array(shape, np.int64),
        }
    nodes.append(helper.make_node("Cast", ["full"], ["out0"], to=TYPES[dtype]))
    given = (1, 3, *size) if size else ("batch", 3, "height", "width")
    return save(
        path,
        nodes,
        inputs=[(given, dtype)],
        outputs=[shape if size else ("batch", *shape[1:])],
        dtype=dtype,
        constants=constants,
        metadata={"names": NAMES, "task": "detect", "stride": 32} if metadata is None else metadata,
    )
