"""A network whose pictures are edited, as one ONNX file: a graph that computes any of its blocks from any crops.

Blocks are those of `effvision.incremental`, so the exported engine (`effvision.host.edits`) does what the one in torch does.
Each lies in the branch of an `If`: one file, one session, weights stored once, and a call computes the block that is switched
on. That costs 2 microseconds for every block that is off; a file for each block would save them, and take a session each. The
dense pass is the same blocks given whole maps.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from effvision._files import as_path
from effvision._optional import require
from effvision.errors import ExportError
from effvision.export.check import MAX_ABS, RELATIVE_RMS, SMALLEST
from effvision.export.edit_operators import Body, Unwritable, write_value
from effvision.export.opset import IR_OF_OPSET
from effvision.export.report import ExportReport
from effvision.export.writer import Made, check_arguments, check_graph, write_made
from effvision.host.edit_costs import Machine
from effvision.host.edit_limits import Limit, Local
from effvision.host.edits import (
    EDITS,
    ExportedNetwork,
    edit_data,
    leaf_name,
    norm_names,
    numbering,
    shown_name,
    switch_name,
    target_name,
)
from effvision.incremental import IncrementalNetwork, Mode
from effvision.incremental.blocks import NetworkBlock, choose_kept, make_blocks
from effvision.incremental.rules import Affine
from effvision.incremental.trace import Graph, Value, trace
from effvision.metadata import GraphSpec, Metadata, TensorSpec
from effvision.runtime.onnx import OnnxRuntime, open_session

__all__ = ["export_edits", "make_edits"]

_HALO = 2
_FEW = 6  # edits of the mode that computes most
_MACHINE = Machine(
    mac_s=1e-11, element_s=1e-10, kept_s=1e-10, call_s=1e-6, tile_factor=2.0
)  # the same for both engines
_Picture = Sequence[np.ndarray]


def export_edits(
    network: nn.Module,
    metadata: Metadata,
    graph: GraphSpec,
    pictures: Iterable[_Picture],
    path: str | os.PathLike[str],
    *,
    opset: int = 17,
    steps: int = 16,
) -> ExportReport:
    """Write a network to `path` after checking it against the engine in torch, over edits with undo and redo.

    Args:
        network: In eval mode; see `effvision.incremental.make_incremental`.
        metadata: Stored in the file, with the blocks' description among its options.
        graph: Names its inputs and outputs.
        pictures: A picture and its edits, each the network's inputs as float32 arrays (N, C, H, W); the first gives the sizes.
        path: Ends in `.onnx`.
        opset: 13 to 20.
        steps: Edits that are checked.

    Raises:
        ExportError: an operation cannot be exported so (all are named), or the graph differs from torch; no file is left and
            an old one stays.
        InputError: an argument is out of range, or the network cannot be followed.
    """
    started = time.perf_counter()
    target = as_path(path)
    check_arguments(target, 1, opset, steps)
    require("onnxruntime", extra="onnx")
    shown = [tuple(picture) for picture in islice(pictures, steps + 1)]
    example = tuple(torch.from_numpy(array) for array in shown[0])
    if next(network.parameters()).device.type != "cpu":
        network = copy.deepcopy(network).cpu()
    names = [tensor.name for tensor in graph.inputs], [tensor.name for tensor in graph.outputs]
    model, spec, data, followed = make_edits(network, example, opset=opset, names=names)
    check = _compare(model, spec, data, followed, shown)
    described = replace(metadata, graphs={spec.name: spec}, options={**metadata.options, EDITS: data})
    return write_made(
        target, described, {spec.name: Made(model, {**check, "warnings": [], "opset": opset}, None)}, started
    )


def make_edits(
    network: nn.Module,
    example: tuple[Tensor, ...],
    *,
    opset: int = 17,
    names: tuple[Sequence[str], Sequence[str]] | None = None,
) -> tuple[ModelProto, GraphSpec, dict[str, Any], Graph]:
    """Return the graph of a network's blocks, its specification, the blocks' description, and what was followed in torch.

    Args:
        network: In eval mode, on the processor.
        example: Its inputs.
        opset: 13 to 20.
        names: Of its inputs and outputs; default: as they are called in torch.

    Raises:
        ExportError: operations cannot be exported so; all are named.
        InputError: the network cannot be followed.
    """
    with torch.no_grad():
        graph = trace(network, example, frozen=True)
    blocks = make_blocks(graph, choose_kept(graph))
    inputs = [graph.values[index] for index in graph.inputs]
    outputs = [graph.values[index] for index in graph.outputs]
    names = names or ([value.name for value in inputs], [value.name for value in outputs])
    norms = {
        value.index: (value.rule.groups or value.shape[1], float(value.given["eps"]))
        for value in graph.values
        if isinstance(value.rule, Affine)
    }
    numbers = numbering(blocks, inputs)
    bodies = _write_all(graph, blocks, inputs, numbers)
    try:
        data = edit_data(blocks, inputs, outputs, names, norms)
        ExportedNetwork(data, lambda feed, wanted: [])  # finds out whether crops of every block fit together
    except (ValueError, ExportError) as error:
        raise ExportError(f"this network cannot be exported in blocks: {error}") from error
    model, spec = _assemble(blocks, bodies, numbers, opset)
    check_graph(model, opset)
    return model, spec, data, graph


def _write_all(
    graph: Graph, blocks: Sequence[NetworkBlock], inputs: Sequence[Value], numbers: dict[int, int]
) -> list[Body]:
    """The nodes of every block."""
    problems = [f"the input `{v.name}` is {tuple(v.shape)} of {v.dtype}" for v in inputs if not _is_map(v)]
    problems += [f"the constant map `{graph.values[index].name}`" for index in graph.constants]
    bodies = []
    for block in blocks:
        target = numbers[block.target.index]
        names = {leaf.index: leaf_name(target, numbers.get(leaf.index, 0)) for leaf in block.leaves}
        body = Body(graph.values, names, numbers, f"b{target}_")
        for value in block.members:
            try:
                write_value(body, value)
            except Unwritable as error:
                problems.append(f"`{value.operation}` ({value.name}): {error}")
                body.names[value.index] = ""
        bodies.append(body)
    if problems:
        raise ExportError(
            "this network cannot be exported for editing:\n  " + "\n  ".join(problems) + "\n"
            "hint: operations that look at the whole picture, or have no form for maps of any size, run in PyTorch only"
        )
    return bodies


def _is_map(value: Value) -> bool:
    return value.picture and value.dtype == torch.float32


def _assemble(
    blocks: Sequence[NetworkBlock], bodies: Sequence[Body], numbers: dict[int, int], opset: int
) -> tuple[ModelProto, GraphSpec]:
    """One graph of all blocks, each in the branch of an `If`."""
    nodes, inputs, outputs = [], [], []
    for block, body in zip(blocks, bodies, strict=True):
        target = numbers[block.target.index]
        inputs.append(TensorSpec(switch_name(target), (), "bool"))
        for leaf in block.leaves:
            inputs.append(_open(leaf_name(target, numbers[leaf.index]), leaf.shape))
        for value in block.members:
            if isinstance(value.rule, Affine):
                n, c = value.shape[:2]
                inputs += [TensorSpec(name, (n, c, 1, 1)) for name in norm_names(numbers[value.index])]
        given = [(target_name(target), body.names[block.target.index], block.target.shape)]
        inside = [value for value in block.members if value.index in body.shown]
        given += [(shown_name(numbers[value.index]), body.names[value.index], value.shape) for value in inside]
        taken = [_open(name, shape) for name, _, shape in given]
        outputs += taken
        inner = [replace(spec, name=made) for spec, (_, made, _) in zip(taken, given, strict=True)]
        none = [f"none_{target}_{place}" for place in range(len(given))]
        then = helper.make_graph(body.nodes, "then", [], [_info(spec) for spec in inner], body.constants)
        zeros = [
            numpy_helper.from_array(np.zeros((*shape[:2], 1, 1), np.float32), name)
            for name, (_, _, shape) in zip(none, given, strict=True)
        ]
        rest = [_info(replace(spec, name=name)) for spec, name in zip(taken, none, strict=True)]
        other = helper.make_graph([], "else", [], rest, zeros)
        names = [spec.name for spec in taken]
        nodes.append(helper.make_node("If", [switch_name(target)], names, then_branch=then, else_branch=other))
    graph = helper.make_graph(nodes, "effvision", [_info(t) for t in inputs], [_info(t) for t in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="effvision")
    model.ir_version = IR_OF_OPSET[opset]
    return model, GraphSpec("step", tuple(inputs), tuple(outputs))


def _open(name: str, shape: Sequence[int]) -> TensorSpec:
    """A map of any size."""
    return TensorSpec(name, (int(shape[0]), int(shape[1]), f"rows_{name}", f"columns_{name}"))


def _info(spec: TensorSpec) -> onnx.ValueInfoProto:
    kind = TensorProto.BOOL if spec.dtype == "bool" else TensorProto.FLOAT
    return helper.make_tensor_value_info(spec.name, kind, list(spec.shape))


# --- the check --------------------------------------------------------------------------------------------------------


@dataclass
class _Difference:
    """How far two engines' outputs are apart, all compared so far."""

    worst: float = 0.0
    squares: float = 0.0
    total: float = 0.0

    def add(self, wanted: np.ndarray, got: np.ndarray, where: str) -> None:
        """Take one output.

        Raises:
            ExportError: they differ by more than the limit.
        """
        far = float(np.abs(wanted - got).max())
        allowed = MAX_ABS * max(SMALLEST, float(np.abs(wanted).max()))
        if not far <= allowed:  # NaN fails too
            raise ExportError(
                f"the exported graph differs from PyTorch: {where} by {far:.1e}, allowed {allowed:.1e}\n"
                "hint: an operator was written wrongly; no file was left"
            )
        self.worst, self.squares = max(self.worst, far), self.squares + float(((wanted - got) ** 2).sum())
        self.total += float((wanted**2).sum())

    @property
    def relative(self) -> float:
        """Root mean square of the differences over that of the numbers."""
        return (self.squares / self.total) ** 0.5 if self.total else 0.0


def _compare(
    model: ModelProto, spec: GraphSpec, data: dict[str, Any], graph: Graph, pictures: Sequence[tuple[np.ndarray, ...]]
) -> dict[str, Any]:
    """Edit the same picture with both engines, in mode `local` and in the exact one; undo and redo on the way.

    Raises:
        ExportError: they differ by more than the limits.
    """
    session = open_session(model.SerializeToString(deterministic=True))
    runtime = OnnxRuntime({spec.name: session}, {spec.name: spec})
    normed = any(isinstance(value.rule, Affine) for value in graph.values)
    found = _Difference()
    exact: Mode = "frozen" if normed else "exact"
    for mode in ("local", exact):
        wanted, engine = _engines(runtime, data, graph, mode)
        for number, picture in enumerate(pictures if mode == "local" else pictures[: _FEW + 1]):
            wanted.update(tuple(torch.from_numpy(array) for array in picture))
            engine.update(picture)
            if number % 5 == 3:
                for one in (wanted, engine):
                    one.undo(to=number - 2)
                    one.redo()
                    one.redo()
            for place, (first, second) in enumerate(zip(_outputs(wanted), _outputs(engine), strict=True)):
                found.add(first, second, f"output {place} after edit {number} in mode {mode}")
    if found.relative > RELATIVE_RMS:
        raise ExportError(
            f"the exported graph differs from PyTorch: relative rms {found.relative:.1e}, allowed {RELATIVE_RMS:.0e}"
        )
    edits = len(pictures) - 1
    return {
        "steps": edits,
        "over": f"{edits} edits in mode local and {min(edits, _FEW)} in mode {exact}, undo and redo among them",
        "batches": [int(pictures[0][0].shape[0])],
        "max_abs": float(f"{found.worst:.1e}"),
        "relative_rms": float(f"{found.relative:.1e}"),
    }


def _engines(
    runtime: OnnxRuntime, data: dict[str, Any], graph: Graph, mode: Mode
) -> tuple[IncrementalNetwork, ExportedNetwork]:
    """The engine in torch and that of the file, which choose the same rectangles."""
    limit = Local(_HALO) if mode == "local" else Limit()
    wanted = IncrementalNetwork(
        graph,
        torch.device("cpu"),
        mode=mode,
        limit=limit,
        plan="rectangles",
        journal_bytes=1 << 30,
        promise="",
        machine=_MACHINE,
    )

    def run(feed: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        return list(runtime.run("step", feed, names).values())

    return wanted, ExportedNetwork(data, run, mode=mode, halo=_HALO, plan="rectangles", machine=_MACHINE)


def _outputs(engine: Any) -> list[np.ndarray]:
    """The outputs as arrays, one after the other."""
    found = engine.output
    if isinstance(engine, IncrementalNetwork):
        return [tensor.numpy() for tensor in tree_leaves(found)]
    return list(found) if isinstance(found, tuple) else [found]
