"""Says before a file is copied to a device what its TensorRT will make of it: node by node, predicted from a table.

Nothing runs, and no weights are read. The table ends with TensorRT 10.1, and the rules come from importers' sources and
documents, up to 10.15 where those could be read. The device has the last word, so a report always says "predicted", and by
which table.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvision._files import as_path
from effvision._optional import require
from effvision.errors import ModelFileError
from effvision.export.device_report import LIMITED, OK, UNSUPPORTED, VERDICTS, DeviceReport, Finding
from effvision.export.operators import operator_table
from effvision.export.targets import Target, get_target

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

    from effvision.export.device_graph import Visit
    from effvision.export.device_rules import Problem

__all__ = ["DeviceReport", "Finding", "check_device"]

_NAMED = 3  # inputs that are named before "and more"


def check_device(model: str | os.PathLike[str] | ModelProto, target: str | Target) -> DeviceReport:
    """Predict what a device makes of any ONNX model, without running it or reading its weights.

    Args:
        model: A file, which need not be ours, or an `onnx.ModelProto`, which stays as it is.
        target: A name of `effvision.export.targets.TARGETS`, or one of its values.

    Raises:
        ModelFileError: the file is missing, damaged or no ONNX model.
        InputError: there is no such target.
        MissingDependencyError: onnx is not installed.
    """
    to = target if isinstance(target, Target) else get_target(target)
    onnx = require("onnx", extra="onnx")
    from effvision.export.device_graph import read_model, walk

    path = None if isinstance(model, onnx.ModelProto) else as_path(model, name="model")
    name = "the model" if path is None else str(path)
    whole: ModelProto = model if path is None else read_model(path)  # type: ignore[assignment]
    _check_model(whole, name)
    release = to.tensorrt or (0, 0)
    counts: Counter[str] = Counter()
    try:
        findings = [*_of_model(whole, to, path.parent if path else None)]
        for visit in walk(whole, release):
            found = _of_node(visit, to)
            findings += found
            counts[max((finding.verdict for finding in found), key=VERDICTS.index)] += 1
    except RecursionError as error:
        raise ModelFileError(f"{name} nests graphs too deeply to be looked into") from error
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{name} is damaged: it holds a name that is not UTF-8") from error
    return DeviceReport(
        model=name,
        target=to.name,
        title=_title(to),
        findings=tuple(findings),
        counts={verdict: counts[verdict] for verdict in VERDICTS},
        table=operator_table().version if to.tensorrt else f"ONNX's operators as onnx {onnx.__version__} knows them",
        notes=tuple(_notes(to)),
    )


def _check_model(model: ModelProto, name: str) -> None:
    if not model.graph.node and not model.graph.output:
        raise ModelFileError(f"{name} holds no graph: no ONNX model, or one that was cut short")
    if not model.opset_import:
        raise ModelFileError(f"{name} does not say which opset it is written in\nhint: export it again")


def _title(target: Target) -> str:
    tensorrt = f"; TensorRT {_dotted(target.tensorrt)}" if target.tensorrt else ""
    return f"{target.name} ({target.title}: {target.devices}{tensorrt})"


def _dotted(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))


def _notes(target: Target) -> Iterator[str]:
    newest = operator_table().releases[-1]
    if target.tensorrt and target.tensorrt > newest:
        yield (
            f"TensorRT {_dotted(target.tensorrt)} is newer than the table: judged by {_dotted(newest)}, so it may do more"
        )
    if target.note:
        yield target.note


# -- the model as a whole ----------------------------------------------------------------------------------------------


def _of_model(model: ModelProto, target: Target, folder: Path | None) -> Iterator[Finding]:
    from effvision.export.device_graph import opset_of

    reader = f"TensorRT {_dotted(target.tensorrt)}" if target.tensorrt else "ONNX Runtime"
    opset = opset_of(model)
    if opset > target.newest_opset:
        hint = f"export with opset {target.opset}"
        yield _model(UNSUPPORTED, f"opset {opset}; {reader} there reads up to {target.newest_opset}", hint)
    elif target.tensorrt and target.tensorrt >= (10, 0) and 0 < opset < 9:
        yield _model(LIMITED, f"opset {opset}; {reader} is documented from 9 on", f"export with opset {target.opset}")
    if model.ir_version > target.ir:
        hint = f"export with opset {target.opset}, or set `ir_version` to {target.ir}: nodes stay the same"
        yield _model(UNSUPPORTED, f"IR {model.ir_version}; ONNX Runtime there reads up to {target.ir}", hint)
    yield from _of_external(model, folder)
    if target.tensorrt:
        yield from _of_edges(model, target.tensorrt)


def _model(verdict: str, reason: str, hint: str) -> Finding:
    return Finding("", "", verdict, "", reason, hint)


def _of_external(model: ModelProto, folder: Path | None) -> Iterator[Finding]:
    from effvision.export.device_graph import external_files

    for external in external_files(model):
        if not external.plain:
            reason = f"weights lie outside the model's folder ({external.location[:60]!r}), which runtimes refuse"
            yield _model(UNSUPPORTED, reason, "save it again with the weights inside, or in the same folder")
        elif folder is not None and not (folder / external.location).is_file():
            reason = f"the weights file {external.location} is not beside the model"
            yield _model(UNSUPPORTED, reason, "copy it there, under that name")
        else:
            reason = f"weights lie in a file of their own, {external.location}"
            yield _model(LIMITED, reason, "copy both files to the device, into one folder")


def _of_edges(model: ModelProto, release: tuple[int, int]) -> Iterator[Finding]:
    """Inputs and outputs of the graph: kinds and types that TensorRT binds, and sizes that are open."""
    from effvision.export.device_rules import TYPE_NAMES, type_name

    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    for value in (*inputs, *model.graph.output):
        kind = value.type.WhichOneof("value") or "tensor_type"
        element = value.type.tensor_type.elem_type
        name = type_name(element)
        where = f"`{value.name}`"
        if kind != "tensor_type":
            what = kind.removesuffix("_type").replace("_", " ")
            yield _model(UNSUPPORTED, f"{where} is a {what}; TensorRT has tensors only", "export tensors only")
        elif element and (name == "STRING" or element not in TYPE_NAMES):
            yield _model(UNSUPPORTED, f"{where} has a type TensorRT lacks, {name}", "use float32 or int32")
        elif name == "UINT8" and release < (8, 5):
            yield _model(UNSUPPORTED, f"{where} is UINT8, known from TensorRT 8.5 on", "give float32, cast before")
        elif name == "DOUBLE":
            yield _model(LIMITED, f"{where} is DOUBLE, computed as FP32", "export in float32")
        elif name == "INT64" and release < (10, 0):
            hint = "give the engine int32 arrays; through ONNX Runtime nothing changes"
            yield _model(LIMITED, f"{where} is INT64, which an engine of TensorRT 8 takes as INT32", hint)
    open_inputs = [value for value in inputs if _open(value)]
    if open_inputs:
        shapes = ",".join(f"{value.name}:{_least(value)}" for value in open_inputs)
        names = ", ".join(value.name for value in open_inputs[:_NAMED])
        more = f" and {len(open_inputs) - _NAMED} more" if len(open_inputs) > _NAMED else ""
        hint = f"export with fixed sizes, or trtexec --minShapes={shapes}, with --optShapes and --maxShapes alike"
        yield _model(LIMITED, f"open sizes need an optimisation profile: {names}{more}", hint)


def _open(value: ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type":
        return False
    return not tensor.HasField("shape") or any(_is_open(dim) for dim in tensor.shape.dim)


def _is_open(dim: Any) -> bool:
    return not dim.HasField("dim_value") or dim.dim_value < 0  # some exporters write -1


def _least(value: ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return "x".join(str(1 if _is_open(dim) else dim.dim_value) for dim in dims) or "SHAPE"


# -- one node ----------------------------------------------------------------------------------------------------------


def _of_node(visit: Visit, target: Target) -> list[Finding]:
    from effvision.export.device_rules import exporter_slips, problems

    if visit.function:
        found = list(_of_function(visit, target))
    elif visit.domain or target.tensorrt is None:
        found = list(_outside_tensorrt(visit, target))
    else:
        found = list(problems(visit.site))
    if not visit.domain:
        found += exporter_slips(visit.site)
    op = f"{visit.domain}.{visit.site.node.op_type}" if visit.domain else visit.site.node.op_type
    if not found:
        return [Finding(visit.path, op, OK, visit.module)]
    return [Finding(visit.path, op, verdict, visit.module, reason, hint) for verdict, reason, hint in found]


def _of_function(visit: Visit, target: Target) -> Iterator[Problem]:
    from effvision.export.device_rules import Problem

    if target.tensorrt and target.tensorrt < (9, 0):
        hint = "put its nodes in its place: onnx.inliner.inline_local_functions"
        yield Problem(UNSUPPORTED, "a function of the model; TensorRT knows these from 9.0 on", hint)


def _outside_tensorrt(visit: Visit, target: Target) -> Iterator[Problem]:
    """Judge operators of other sets than ONNX's own, and any where only ONNX Runtime runs."""
    from onnx import defs

    from effvision.export.device_rules import Problem

    site, domain = visit.site, visit.domain
    if target.tensorrt is None and domain in ("", "ai.onnx.ml"):
        if not domain and not _known(site.node.op_type, site.opset):
            hint = "export it again, with the opset that has it"
            yield Problem(UNSUPPORTED, f"ONNX has no such operator at opset {site.opset}", hint)
        elif domain and not defs.has(site.node.op_type, domain):
            yield Problem(UNSUPPORTED, f"{domain} has no such operator", "export it again")
    elif target.tensorrt is None and domain.startswith("com.microsoft"):
        yield Problem(
            LIMITED, "an operator that only ONNX Runtime has", "keep the file before ONNX Runtime optimised it"
        )
    elif domain.startswith("trt"):
        yield Problem(LIMITED, "a TensorRT plugin", "bring its plugin library to the device")
    else:
        hint = "export without it: save the model before a runtime optimised it, or write it with ONNX's operators"
        yield Problem(UNSUPPORTED, f"an operator of `{domain[:60]}`, not of ONNX", hint)


def _known(operator: str, opset: int) -> bool:
    from onnx import defs

    try:
        return not defs.get_schema(operator, opset).deprecated
    except defs.SchemaError:
        return False
