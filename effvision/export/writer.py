"""From a module and its description to one checked ONNX file."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from effvision._files import appearing, as_path
from effvision._optional import require
from effvision.errors import EffvisionError, ExportError, InputError, SourceError
from effvision.export._quiet import quiet
from effvision.export.report import ExportReport, PrecisionReport
from effvision.metadata import (
    EXPORT_KEY,
    GRAPH_KEY,
    KEY,
    ROWS,
    GraphSpec,
    Metadata,
    TensorSpec,
    main_graph,
    part_path,
)
from effvision.runtime import Runtime

__all__ = ["Made", "check_arguments", "check_graph", "export_onnx", "write_made"]

_WRITTEN_OPSET = 18  # what PyTorch's exporter really writes for anything older
_OPSETS = range(13, 21)
_MOST_STREAMS = 4096
_FOLDED = 128  # numbers: shapes and indices, but no weights
Convert = Callable[[Any, GraphSpec], tuple[Any, PrecisionReport]]
_PROTOBUF_LIMIT = 1_900_000_000


def export_onnx(
    runtime: Runtime,
    metadata: Metadata,
    examples: Any,
    path: str | os.PathLike[str],
    *,
    batch: int | Literal["dynamic"] = 1,
    opset: int = 17,
    steps: int = 16,
    convert: Convert | None = None,
) -> ExportReport:
    """Write a model to `path` after checking it against PyTorch; see `Predictor.export`.

    A model of several graphs becomes a file each: `path` holds the main one, `STEM-NAME.onnx` beside it another; each carries
    the whole description, and nothing is written before all have passed.

    Args:
        runtime: The `TorchRuntime` that holds the graphs' modules.
        metadata: Stored in the file.
        examples: `Predictor.example_inputs`.
        path: Ends in `.onnx`.
        batch: Streams per call, or `dynamic`.
        opset: 13 to 20.
        steps: Frames of each checked stream.
        convert: Makes another precision of a float graph once that has passed.

    Raises:
        ExportError: the graph cannot be written so, or it differs from PyTorch; no file is left and an old one stays.
        InputError: an argument is out of range.
        SourceError: the folder does not exist.
    """
    started = time.perf_counter()
    target = as_path(path)
    check_arguments(target, batch, opset, steps)
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        require(package, extra="torch" if package == "torch" else "onnx")
    modules = runtime.traced  # type: ignore[attr-defined]
    first = main_graph(metadata.graphs)
    order = [first, *(name for name in metadata.graphs if name != first)]
    graphs = {name: _with_batch(metadata.graphs[name], batch) for name in order}
    made: dict[str, Made] = {}
    for name, spec in graphs.items():
        model = _trace(modules[name], spec, examples, batch, opset)
        found = _clean(model, opset)
        check = _compare(model, runtime, spec, examples, batch, steps)
        precision: PrecisionReport | None = None
        if convert is not None:
            model, precision = convert(model, spec)
            check_graph(model, opset)
        made[name] = Made(model, {**check, "warnings": found, "opset": opset}, precision)
    return write_made(target, replace(metadata, graphs=graphs), made, started)


def write_made(target: Path, metadata: Metadata, made: dict[str, Made], started: float) -> ExportReport:
    """Write the graphs of a model, by name; what was measured of each stands in its file."""
    texts = [one.model.SerializeToString(deterministic=True) for one in made.values()]
    whole = hashlib.sha256(b"".join(texts)).hexdigest()
    reports = []
    with contextlib.ExitStack() as files:  # all are written before the first takes its place, the main one last
        for name, one in made.items():
            said = replace(metadata, precision=one.precision.summary() if one.precision else {})
            _set_metadata(one.model, said.with_check(one.check), name, whole)
            data = one.model.SerializeToString(deterministic=True)
            _check_written(data)
            place = part_path(target, name, metadata.graphs)
            files.enter_context(appearing(place)).write_bytes(data)
            reports.append(_report(place, one, data, time.perf_counter() - started))
    return replace(reports[0], parts=tuple(reports[1:]))


class Made(NamedTuple):
    """One graph that passed."""

    model: Any
    check: dict[str, Any]
    precision: PrecisionReport | None


def _report(path: Path, made: Made, data: bytes, seconds: float) -> ExportReport:
    from effvision.export.opset import obtained_opset

    check = dict(made.check)
    del check["opset"]
    return ExportReport(
        path=path,
        opset=obtained_opset(made.model),
        ir=int(made.model.ir_version),
        nodes=len(made.model.graph.node),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        inputs=_shapes(made.model.graph.input),
        outputs=_shapes(made.model.graph.output),
        warnings=tuple(check.pop("warnings")),
        check=check,
        precision=made.precision,
        seconds=round(seconds, 2),
    )


def check_arguments(target: Path, batch: Any, opset: Any, steps: Any) -> None:
    """Refuse arguments of an export that are out of range."""
    if target.suffix.lower() != ".onnx":
        raise InputError(f"an exported file's name ends in .onnx; got {target.name!r}")
    if not target.parent.is_dir():
        raise SourceError(f"cannot write {target}: the folder {target.parent} does not exist\nhint: create it first")
    dynamic = isinstance(batch, str) and batch == "dynamic"
    if not dynamic and (isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= _MOST_STREAMS):
        raise InputError(f"`batch` must be 1 to {_MOST_STREAMS} streams, or 'dynamic'; got {batch!r}")
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in _OPSETS:
        raise InputError(f"`opset` must be {_OPSETS.start} to {_OPSETS.stop - 1}; got {opset!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 16:
        raise InputError(f"`steps` must be 16 or more: a short stream hides a lost state; got {steps!r}")


def _with_batch(spec: GraphSpec, batch: int | Literal["dynamic"]) -> GraphSpec:
    if batch == "dynamic":
        return spec

    def fix(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(t, shape=tuple(batch if axis == "batch" else axis for axis in t.shape)) for t in tensors)

    return replace(spec, inputs=fix(spec.inputs), outputs=fix(spec.outputs))


def _trace(module: Any, spec: GraphSpec, examples: Any, batch: int | Literal["dynamic"], opset: int) -> Any:
    """Return the `onnx.ModelProto` that PyTorch's exporter makes, in memory."""
    import torch

    size = 2 if batch == "dynamic" else batch  # 1 would be taken for a constant
    device = next(module.parameters()).device
    first = next(iter(examples(spec.name, steps=16, batch=size, seed=0)))
    inputs = tuple(torch.from_numpy(first[tensor.name]).to(device) for tensor in spec.inputs)
    states = tuple(torch.zeros((size, *state.shape), device=device) for state in spec.states)
    axes = {axis: _dim(axis) for t in (*spec.inputs, *spec.outputs) for axis in t.shape if isinstance(axis, str)}
    plain = [{place: axes[axis] for place, axis in enumerate(t.shape) if isinstance(axis, str)} for t in spec.inputs]
    kept = [{0: axes["batch"]} if "batch" in axes else {} for _ in spec.states]
    dynamic = _as_arguments(module, [*plain, *kept])
    arguments = (*inputs, *states)
    names = [tensor.name for tensor in spec.inputs] + [state.input for state in spec.states]
    results = [tensor.name for tensor in spec.outputs] + [state.output for state in spec.states]
    forms = module.onnx_forms() if hasattr(module, "onnx_forms") else None  # of operators of its own
    try:
        with quiet("torch.onnx", "torch.export", "onnxscript", "onnx_ir"):
            program = torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                opset_version=max(opset, _WRITTEN_OPSET),
                input_names=names,
                output_names=results,
                dynamic_shapes=dynamic if axes else None,
                external_data=False,
                verbose=False,
                custom_translation_table=forms,
                optimize=forms is None,
            )
            assert program is not None
            if forms is not None:
                # what such operators make of weights must not be computed now: it would be in the file too
                from onnxscript.optimizer import optimize_ir

                optimize_ir(program.model, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
            model = program.model_proto
            _name_axes(model, spec)
            return model
    except Exception as error:  # the exporter wraps everything in kinds of its own
        reason = str(error.__cause__ or error).strip().splitlines()
        raise ExportError(
            f"PyTorch cannot export this network: {reason[0] if reason else type(error).__name__}"
        ) from error


def _as_arguments(module: Any, each: list[Any]) -> tuple[Any, ...]:
    """Arrange what is said of each input as `forward` takes them: those of its `*name` in a tuple of their own."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(each)
    return (*each[:named], *([tuple(each[named:])] if len(each) > named else []))


def _dim(axis: str) -> Any:
    """Return the size of an open axis; one called `rows of ...` hangs together with others in ways that tracing finds."""
    import torch

    if axis.startswith(ROWS):
        return torch.export.Dim.AUTO
    return torch.export.Dim(axis, min=1, max=_MOST_STREAMS if axis == "batch" else None)


def _name_axes(model: Any, spec: GraphSpec) -> None:
    """Give open axes whose sizes were found by tracing the names of the specification: of inputs, and of what follows."""
    found = any(str(axis).startswith(ROWS) for tensor in spec.inputs for axis in tensor.shape)
    said = {tensor.name: tensor.shape for tensor in (*spec.inputs, *spec.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, said.get(value.name, ()), strict=False):
            if found and isinstance(name, str) and axis.dim_param:
                axis.dim_param = name


def _clean(model: Any, opset: int) -> list[str]:
    """Fit the graph to the opset, strip what names this machine's files, and return warnings."""
    from effvision.export._graphs import drop_defaults, join_slices, name_shortly
    from effvision.export.opset import to_opset
    from effvision.export.traps import find_traps

    to_opset(model, opset)
    join_slices(model)
    drop_defaults(model)
    name_shortly(model)
    found = find_traps(model, opset=opset)
    for item in [
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
        model.graph,
        model,
    ]:
        del item.metadata_props[:]
        item.doc_string = ""
    del model.graph.value_info[:]
    model.producer_name, model.producer_version = "effvision", ""
    model.graph.name = "effvision"
    check_graph(model, opset)
    return found


def check_graph(model: Any, opset: int) -> None:
    """Make sure of what every reader relies on."""
    import onnx

    from effvision.export.opset import obtained_opset

    if obtained_opset(model) != opset:
        raise ExportError(f"asked for opset {opset} but the graph is {obtained_opset(model)}")
    if model.ByteSize() > _PROTOBUF_LIMIT:
        raise ExportError(f"the model takes {model.ByteSize() / 1e9:.2f} GB; one ONNX file holds less than 2 GB")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # onnx raises kinds of its own for the checker and for shape inference
        raise ExportError(f"ONNX's own checker refuses the graph: {error}") from error


def _compare(
    model: Any, runtime: Runtime, spec: GraphSpec, examples: Any, batch: int | Literal["dynamic"], steps: int
) -> dict[str, Any]:
    from effvision.export.check import compare
    from effvision.runtime.onnx import OnnxRuntime, open_session

    session = open_session(model.SerializeToString(deterministic=True))
    exported = OnnxRuntime({spec.name: session}, {spec.name: spec})
    batches = [1, 2, 3] if batch == "dynamic" else [batch, batch]  # traced at 2: 1 and 3 were never seen
    if not spec.states:  # nothing to carry along: one noise and one picture say as much as a long stream
        steps, batches = 2, batches[:2] if batch == "dynamic" else batches[:1]
    return compare(runtime, exported, examples, graph=spec.name, batches=batches, steps=steps)


def _set_metadata(model: Any, metadata: Metadata, graph: str, whole: str) -> None:
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, metadata.to_json()
    if len(metadata.graphs) > 1:
        for key, value in ((GRAPH_KEY, graph), (EXPORT_KEY, whole)):
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value


def _check_written(data: bytes) -> None:
    """Open the very bytes that will be written, once, as a user's program will."""
    from effvision.runtime.onnx import open_session, read_metadata

    try:
        read_metadata(open_session(data), where="the exported model")
    except EffvisionError as error:
        raise ExportError(f"the finished file cannot be read back: {error}") from error


def _shapes(values: Any) -> dict[str, tuple[int | str, ...]]:
    return {v.name: tuple(d.dim_param or int(d.dim_value) for d in v.type.tensor_type.shape.dim) for v in values}
