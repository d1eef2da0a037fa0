"""What TensorRT's ONNX importers do with one node, beyond the operator table: attributes, constants, ranks, types.

Read from the importers' sources and documentation per release, not run on TensorRT. The dangerous ones are silent: releases
8.2 to 8.6 never read the `reduction` of a scatter (NVIDIA/TensorRT#3750), and every importer read so far takes a GridSample
mode it does not know, such as opset 20's `linear`, for `nearest`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from onnx import AttributeProto, NodeProto, TensorProto

from effvision.export.device_report import LIMITED, SILENT, UNSUPPORTED
from effvision.export.device_values import UNKNOWN, Value, elements
from effvision.export.operators import operator_table

__all__ = ["TYPE_NAMES", "Problem", "Site", "exporter_slips", "problems", "type_name"]

TYPE_NAMES: Mapping[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT4: "INT4",
    **{getattr(TensorProto, name): name for name in ("DOUBLE", "INT8", "UINT8", "INT32", "INT64", "BOOL", "STRING")},
}
"""ONNX element types by the names of TensorRT's documents."""

_FOLD = "fold constants first: `onnxslim in.onnx out.onnx`, or `polygraphy surgeon sanitize --fold-constants`"
_NEWEST_READ = (10, 15)  # what changed between the table's last release and this one is known from its sources


class Problem(NamedTuple):
    """Why a node is not simply ok."""

    verdict: str
    reason: str
    hint: str


@dataclass(frozen=True)
class Site:
    """One node with what is known around it.

    Attributes:
        node: The node.
        opset: Of ONNX's own domain, where the node stands.
        release: Of TensorRT.
        attributes: The node's, with those of a calling function filled in.
        values: Tensors by name.
        constants: Tensors that are known now, by name.
        folded: Names that are constants after quantisation or dequantisation.
    """

    node: NodeProto
    opset: int
    release: tuple[int, int]
    attributes: Mapping[str, AttributeProto]
    values: Mapping[str, Value]
    constants: Mapping[str, TensorProto]
    folded: Set[str]

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is text."""
        found = self.attributes.get(name)
        return default if found is None else found.s.decode(errors="replace")

    def number(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number."""
        found = self.attributes.get(name)
        return default if found is None else int(found.i)

    def numbers(self, name: str) -> list[int]:
        """Return an attribute that is a list of whole numbers; empty if absent."""
        found = self.attributes.get(name)
        return [] if found is None else [int(value) for value in found.ints]

    def has(self, index: int) -> bool:
        """Whether an input is connected."""
        return len(self.node.input) > index and bool(self.node.input[index])

    def constant(self, index: int) -> TensorProto | None:
        """Return an input that is known now."""
        return self.constants.get(self.node.input[index]) if self.has(index) else None

    def fixed(self, index: int) -> bool:
        """Whether an input is absent, known now, or a quantised constant."""
        return not self.has(index) or self.constant(index) is not None or self.node.input[index] in self.folded

    def value(self, index: int) -> Value:
        """Return what is known of an input."""
        return self.values.get(self.node.input[index], UNKNOWN) if self.has(index) else UNKNOWN

    def elements(self, index: int) -> list[float] | None:
        """Return the numbers of a constant input, flat; None where they are not known."""
        tensor = self.constant(index)
        return None if tensor is None else elements(tensor)


_MEAN = re.compile(r"scatter_reduce.*\bmean\b", re.DOTALL)


def exporter_slips(site: Site) -> Iterator[Problem]:
    """Yield what is wrong on every target because the exporter wrote something else than the network says.

    PyTorch 2.13 writes the mean of `scatter_reduce` as a scatter that overwrites, without an error. The file is valid; only
    the exporter's own note in it, where nobody stripped it, still tells what was meant.
    """
    if site.node.op_type in ("ScatterElements", "ScatterND") and site.text("reduction", "none") == "none":
        notes = {entry.key: str(entry.value) for entry in getattr(site.node, "metadata_props", ())}
        if _MEAN.search(notes.get("pkg.torch.onnx.fx_node", "")[:10_000]):
            hint = "write the mean as scatter_add of the values over scatter_add of ones"
            yield Problem(SILENT, "PyTorch's exporter wrote scatter_reduce(mean) as overwriting", hint)


def problems(site: Site) -> Iterator[Problem]:
    """Yield what a TensorRT release makes of one node of ONNX's own domain; nothing when it is ok."""
    operator, table = site.node.op_type, operator_table()
    supported = table.lookup(operator, site.release)
    if supported is None:
        yield _absent(operator, site.release)
        return
    yield from _types(site, supported)
    rule = _RULES.get("Reduce" if operator.startswith("Reduce") else operator)
    if rule is not None:
        yield from rule(site)


def _absent(operator: str, release: tuple[int, int]) -> Problem:
    table = operator_table()
    first = table.first(operator)
    if first is not None:
        since = ".".join(map(str, first))
        instead = _INSTEAD.get(operator, "express it with older operators (an older opset often does)")
        return Problem(UNSUPPORTED, f"TensorRT has it from {since} on", f"{instead}, or use a newer JetPack")
    newest = ".".join(map(str, table.releases[-1]))
    newer = "; this release is newer and may have it" if release > table.releases[-1] else ""
    reason = f"no TensorRT up to {newest} has it{newer}"
    return Problem(
        UNSUPPORTED, reason, _INSTEAD.get(operator, "move it to the host, or express it with other operators")
    )


_INSTEAD = {
    "GridSample": "gather the neighbours (GatherElements)",
    "LayerNormalization": "export with opset 16, which writes it out",
    "GroupNormalization": "export with opset 16, which writes it out",
    "QLinearConv": "quantise in QDQ form: QuantizeLinear and DequantizeLinear, zero points 0",
    "QLinearMatMul": "quantise in QDQ form: QuantizeLinear and DequantizeLinear, zero points 0",
    "ConvInteger": "quantise in QDQ form: QuantizeLinear and DequantizeLinear, zero points 0",
    "MatMulInteger": "quantise in QDQ form: QuantizeLinear and DequantizeLinear, zero points 0",
    "DynamicQuantizeLinear": "quantise statically, in QDQ form with zero points 0",
    "Unique": "do this part on the host: its result has no fixed shape",
    "Compress": "multiply by the mask, or gather a fixed number: its result has no fixed shape",
}

# -- types -------------------------------------------------------------------------------------------------------------

_DATA = {"Where": 1, "OneHot": 2}  # which input has the type the table speaks of, if not the first
_UNTYPED = {"If", "Loop", "Scan", "Shape", "Size", "Constant", "DequantizeLinear", "NonMaxSuppression"}


def _types(site: Site, supported: frozenset[str]) -> Iterator[Problem]:
    operator = site.node.op_type
    index = _DATA.get(operator, 0)
    types = {site.value(index).type} if operator not in _UNTYPED else set()
    if operator in ("Cast", "EyeLike", "RandomUniform", "RandomNormal"):
        types.add(site.number("to" if operator == "Cast" else "dtype", 0))
    if operator == "ConstantOfShape":
        types = {site.attributes["value"].t.data_type} if "value" in site.attributes else {int(TensorProto.FLOAT)}
    for kind in sorted(types - {0}):
        problem = _type(operator, type_name(kind), supported, site.release)
        if problem is not None:
            yield problem


def type_name(kind: int) -> str:
    """Return an element type's name as TensorRT's documents, else ONNX, have it."""
    known = kind in TYPE_NAMES or kind not in TensorProto.DataType.values()
    return TYPE_NAMES.get(kind, f"type {kind}") if known else TensorProto.DataType.Name(kind)


def _type(operator: str, name: str, supported: frozenset[str], release: tuple[int, int]) -> Problem | None:
    if name == "DOUBLE":
        return Problem(LIMITED, "DOUBLE is computed as FP32, larger numbers cut off", "export in float32")
    if release[0] < 10 and name == "INT64":
        name = "INT32"  # these releases narrow it themselves
    if name in supported or (name == "UINT8" and operator == "Cast" and release >= (8, 5)):
        return None
    reason = f"takes {', '.join(sorted(supported))}, not {name}"
    if operator in ("ConstantOfShape", "NonZero") and name in ("INT32", "INT64", "BOOL", "FP16", "BF16"):
        # the layers beneath take these; only the parser's table leaves them out
        return Problem(
            LIMITED, f"documented to take {', '.join(sorted(supported))}, not {name}", "build it on the device"
        )
    return Problem(UNSUPPORTED, reason, "cast to a type it takes before this node (float32 or int32)")


# -- attributes and inputs ---------------------------------------------------------------------------------------------

_Rule = Callable[[Site], Iterator[Problem]]


def _scatter_elements(site: Site) -> Iterator[Problem]:
    reduction = site.text("reduction", "none")
    if reduction == "none":
        return
    if site.release < (10, 0):
        reason = f"reduction={reduction} is not read: it overwrites instead of combining"
        yield Problem(SILENT, reason, "do this part on the host, or as a product with a one-hot matrix")
    elif site.value(1).type not in (0, TensorProto.INT64):
        yield Problem(UNSUPPORTED, f"reduction={reduction} takes int64 indices only", "cast the indices to int64")
    else:
        reason = f"reduction={reduction} is a plugin: int64 indices, no BF16 or INT8"
        yield Problem(LIMITED, reason, "keep the plugin library (libnvinfer_plugin) with the engine")


def _scatter_nd(site: Site) -> Iterator[Problem]:
    reduction = site.text("reduction", "none")
    if reduction != "none" and site.release < (10, 0):
        reason = f"reduction={reduction} is not read: it overwrites instead of combining"
        yield Problem(SILENT, reason, "do this part on the host, or as a product with a one-hot matrix")
    elif reduction != "none":
        hint = "write it with torch.scatter_add (ScatterElements), not index_add or index_put"
        yield Problem(UNSUPPORTED, f"reduction={reduction} is refused", hint)
    elif "reduction" in site.attributes and (10, 0) <= site.release < (10, 9):
        reason = "the attribute `reduction` is refused even as 'none', which means the same as leaving it out"
        yield Problem(UNSUPPORTED, reason, "remove the attribute from the node, or export with opset 15")


def _grid_sample(site: Site) -> Iterator[Problem]:
    if 5 in (site.value(0).rank, site.value(1).rank):
        hint = "gather the eight corners (GatherElements) and weigh them"
        yield Problem(UNSUPPORTED, "samples volumes (5-D); TensorRT has pictures (4-D) only", hint)
    mode = site.text("mode", "bilinear")  # opset 20 renamed the modes, not what the importer takes an absent one for
    if mode not in ("nearest", "bilinear", "bicubic"):
        reason = f"mode={mode!r} is not known to the importer, which then samples nearest"
        yield Problem(SILENT, reason, "export with an opset from 16 to 19, where the modes are bilinear and bicubic")


_TRANSFORMS = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")


def _resize(site: Site) -> Iterator[Problem]:
    if site.number("antialias", 0):
        yield Problem(UNSUPPORTED, "antialias=1", "resize with antialiasing on the host, before the network")
    policy = site.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        yield Problem(UNSUPPORTED, f"keep_aspect_ratio_policy={policy}", "compute the size when exporting")
    axes, rank = site.numbers("axes"), site.value(0).rank
    if "axes" in site.attributes and site.release < (10, 0):
        hint = "export with opset 17, where every axis has a size"
        yield Problem(UNSUPPORTED, "the attribute `axes` is known from TensorRT 10 on", hint)
    elif axes and site.has(2) and not site.fixed(2) and len(axes) != rank:
        yield Problem(LIMITED, "`axes` has to name every axis where `scales` is computed", "give constant scales")
    if site.text("mode", "nearest") == "cubic" and site.release < (8, 5):
        yield Problem(UNSUPPORTED, "mode=cubic is known from TensorRT 8.5 on", "use mode linear")
    transform = site.text("coordinate_transformation_mode", "half_pixel")
    if transform not in _TRANSFORMS:
        hint = f"use one of {', '.join(_TRANSFORMS)}"
        yield Problem(UNSUPPORTED, f"coordinate_transformation_mode={transform}", hint)
    elif (
        transform == "tf_half_pixel_for_nn" and site.text("nearest_mode", "round_prefer_floor") != "round_prefer_floor"
    ):
        yield Problem(UNSUPPORTED, f"{transform} with another nearest_mode than round_prefer_floor", "use half_pixel")


def _top_k(site: Site) -> Iterator[Problem]:
    if not site.fixed(1) and site.release < (8, 6):
        yield Problem(UNSUPPORTED, "K is computed; before TensorRT 8.6 it has to be an initializer", _FOLD)
    largest = max(site.elements(1) or [site.number("k", 0)], default=0)
    if largest >= 3840:
        hint = "take fewer, or do this part on the host"
        yield Problem(UNSUPPORTED, f"K={largest:.0f}; TensorRT takes less than 3840", hint)
    if not site.number("sorted", 1):
        verdict = UNSUPPORTED if site.release >= (10, 0) else LIMITED
        yield Problem(verdict, "documented for sorted=1", "set sorted=1: a sorted answer is right for both")


def _pool(site: Site) -> Iterator[Problem]:
    if len(site.node.output) > 1 and site.node.output[1]:
        yield Problem(UNSUPPORTED, "the output Indices is used", "pool without indices (no MaxUnpool later)")
    if any(step != 1 for step in site.numbers("dilations")):
        yield Problem(UNSUPPORTED, "dilations other than 1", "pool with stride, or write it as shifted maxima")
    yield from _spatial(len(site.numbers("kernel_shape")))


def _convolution(site: Site) -> Iterator[Problem]:
    if not site.fixed(1) and site.release < (8, 5):
        hint = f"{_FOLD}; weights that depend on the input need a newer JetPack"
        yield Problem(UNSUPPORTED, "the weights are computed; before TensorRT 8.5 they have to be initializers", hint)
    yield from _spatial((site.value(1).rank or 2) - 2)


def _spatial(axes: int) -> Iterator[Problem]:
    if axes > 3:
        yield Problem(UNSUPPORTED, f"{axes} spatial axes; TensorRT has 2 and 3", "reshape to fewer axes")
    elif axes == 1:
        hint = "if the device refuses it, add an axis of length 1"
        yield Problem(LIMITED, "documented for 2 and 3 spatial axes, not 1", hint)


def _needs(index: int, name: str, *, until: tuple[int, int] = (99, 0)) -> _Rule:
    """Make a rule: an input has to be known when the engine is built, in releases before `until`."""

    def rule(site: Site) -> Iterator[Problem]:
        if site.release < until and not site.fixed(index):
            yield Problem(UNSUPPORTED, f"`{name}` is computed; it has to be an initializer", _FOLD)

    return rule


def _pad(site: Site) -> Iterator[Problem]:
    if site.has(3) and site.release < (10, 0):
        hint = "export with opset 17, where `pads` names every axis"
        yield Problem(UNSUPPORTED, "the input `axes` is known from TensorRT 10 on", hint)
    else:
        yield from _needs(3, "axes", until=(10, 4))(site)
    if site.text("mode", "constant") == "wrap" and site.release < (10, 0):
        yield Problem(UNSUPPORTED, "mode=wrap is known from TensorRT 10 on", "concatenate the two ends")


def _reduce(site: Site) -> Iterator[Problem]:
    # ReduceSum took its axes as an input five opsets before the others, and TensorRT 8 knows that one
    if site.has(1) and site.release < (10, 0) and site.node.op_type != "ReduceSum":
        hint = "export with opset 17, where they are an attribute"
        yield Problem(UNSUPPORTED, "`axes` as an input is known from TensorRT 10 on", hint)
    else:
        yield from _needs(1, "axes")(site)


def _split(site: Site) -> Iterator[Problem]:
    if "num_outputs" in site.attributes and site.release < (10, 0):
        hint = "export with opset 17, or give the input `split`"
        yield Problem(UNSUPPORTED, "the attribute `num_outputs` is known from TensorRT 10 on", hint)


def _quantize(site: Site) -> Iterator[Problem]:
    tensor, kind = site.constant(2), site.value(2).type
    symmetric = "quantise symmetrically to int8: zero point 0 (S8S8)"
    if site.node.op_type == "DequantizeLinear" and not site.has(2):
        kind = site.value(0).type
    name, taken = type_name(kind), operator_table().lookup("DequantizeLinear", site.release) or frozenset({"INT8"})
    if kind and name not in taken:
        yield Problem(
            UNSUPPORTED, f"{name} does not import: TensorRT quantises to {', '.join(sorted(taken))}", symmetric
        )
    elif any(site.elements(2) or ()):
        yield Problem(UNSUPPORTED, "a zero point is not 0", symmetric)
    elif site.has(2) and tensor is None:
        yield Problem(LIMITED, "the zero point is computed: it has to be 0", symmetric)
    elif site.node.op_type == "QuantizeLinear" and not site.has(2) and not site.number("output_dtype", 0):
        reason = "without a zero point ONNX quantises to UINT8, TensorRT to INT8"
        yield Problem(LIMITED, reason, "give an int8 zero point of 0")
    scale = site.constant(1)
    if scale is not None and len(scale.dims) == 1 and scale.dims[0] > 1 and not site.fixed(0):
        reason = "one scale per channel is for constant weights; activations have one for the whole tensor"
        yield Problem(UNSUPPORTED, reason, "quantise activations per tensor, weights per channel")


def _control(site: Site) -> Iterator[Problem]:
    same = "both branches give the same rank" if site.node.op_type == "If" else "shapes stay the same in every round"
    yield Problem(LIMITED, f"control flow: works where {same}", "unroll it, or decide on the host, when exporting")


def _data_dependent(site: Site) -> Iterator[Problem]:
    reason = "the shape of its result depends on the data: slow, and no CUDA graph"
    yield Problem(LIMITED, reason, "use a mask, or a fixed number of places (TopK, then gather)")


def _einsum(site: Site) -> Iterator[Problem]:
    equation = site.text("equation", "").replace(" ", "")
    operands = equation.partition("->")[0].split(",")
    if not set(equation) <= set("abcdefghijklmnopqrstuvwxyz.,->"):
        yield Problem(UNSUPPORTED, f"{equation!r}: capital letters are refused", "use small letters, a to z")
    elif site.release < (10, 12) and ("." in equation or any(len(set(term)) < len(term) for term in operands)):
        hint = "write it with MatMul, Transpose and Reshape"
        yield Problem(UNSUPPORTED, f"{equation!r}: no ellipsis and no diagonal before TensorRT 10.12", hint)


def _first_output_only(site: Site) -> Iterator[Problem]:
    if any(site.node.output[1:]):
        yield Problem(UNSUPPORTED, "only the first output exists in TensorRT", "export in evaluation mode")
    if site.number("training_mode", 0):
        yield Problem(UNSUPPORTED, "training_mode=1", "export in evaluation mode")


def _dropout(site: Site) -> Iterator[Problem]:
    if not site.fixed(2) or any(site.elements(2) or ()):
        yield Problem(UNSUPPORTED, "training mode", "export in evaluation mode")


def _instance_normalization(site: Site) -> Iterator[Problem]:
    for index, name in ((1, "scale"), (2, "B")):
        yield from _needs(index, name, until=(8, 6))(site)


def _recurrent(site: Site) -> Iterator[Problem]:
    for name in ("input_forget", "layout"):
        if site.number(name, 0):
            yield Problem(UNSUPPORTED, f"{name}=1", f"export with {name}=0")


def _random(site: Site) -> Iterator[Problem]:
    if "seed" in site.attributes:
        yield Problem(LIMITED, "`seed` is ignored: other numbers than elsewhere", "give the numbers as an input")


def _constant(site: Site) -> Iterator[Problem]:
    for name in ("sparse_value", "value_string", "value_strings"):
        if name in site.attributes:
            yield Problem(UNSUPPORTED, f"a constant given as `{name}`", "store it as a dense tensor of numbers")


def _each(operators: Sequence[str], rule: _Rule) -> dict[str, _Rule]:
    return dict.fromkeys(operators, rule)


_RULES: Mapping[str, _Rule] = {
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "GridSample": _grid_sample,
    "Resize": _resize,
    "TopK": _top_k,
    **_each(("MaxPool", "AveragePool", "LpPool"), _pool),
    **_each(("Conv", "ConvTranspose"), _convolution),
    "Slice": _needs(3, "axes", until=(10, 3)),
    **_each(("Squeeze", "Unsqueeze"), _needs(1, "axes", until=_NEWEST_READ)),
    "CumSum": _needs(1, "axis"),
    "OneHot": _needs(1, "depth"),
    "Pad": _pad,
    "Reduce": _reduce,
    "Split": _split,
    **_each(("QuantizeLinear", "DequantizeLinear"), _quantize),
    **_each(("Loop", "If", "Scan"), _control),
    **_each(("NonZero", "NonMaxSuppression"), _data_dependent),
    "Einsum": _einsum,
    **_each(("LayerNormalization", "BatchNormalization"), _first_output_only),
    "Dropout": _dropout,
    "InstanceNormalization": _instance_normalization,
    **_each(("LSTM", "GRU", "RNN"), _recurrent),
    **_each(("RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike"), _random),
    "Constant": _constant,
}
