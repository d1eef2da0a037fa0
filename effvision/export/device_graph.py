"""Reads any ONNX file and walks its nodes, sub-graphs and the model's own functions included; weights are passed by."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from effvision.errors import ModelFileError
from effvision.export.device_rules import Site
from effvision.export.device_values import UNKNOWN, Value, constant_of, infer

__all__ = ["External", "Visit", "domain_of", "external_files", "opset_of", "read_model", "walk"]

_MOST_NODES = 500_000  # after looking into functions, which may call functions twice each
_DEEPEST_CALL = 32
_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_Functions = Mapping[tuple[str, str], FunctionProto]


@dataclass(frozen=True)
class External:
    """Weights that lie beside a model: the file's name as the model gives it, and whether that is a plain one."""

    location: str
    plain: bool


@dataclass(frozen=True)
class Visit:
    """One node on the walk.

    Attributes:
        site: The node and what is known around it.
        domain: Its operator set, `""` for ONNX's own.
        path: Names of the nodes whose sub-graph or function it stands in, then its own.
        module: The part of the network it came from, as far as the file tells.
        function: It calls a function of the model, whose nodes follow.
    """

    site: Site
    domain: str
    path: str
    module: str
    function: bool


def read_model(path: Path) -> ModelProto:
    """Parse a file; weights that lie beside it stay there.

    Raises:
        ModelFileError: there is no such file, or it is no ONNX model.
    """
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder\nhint: give the .onnx file in it")
    if not path.is_file():
        raise ModelFileError(f"there is no file {path}")
    try:
        if path.stat().st_size >= 1 << 31:
            raise ModelFileError(f"{path} has 2 GB or more, which no ONNX file can\nhint: keep the weights beside it")
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    if not data:
        raise ModelFileError(f"{path} is empty: a download or copy that was cut short?")
    try:
        model = ModelProto()
        model.ParseFromString(data)
    except Exception as error:  # protobuf's errors differ between its implementations
        raise ModelFileError(f"{path} is no ONNX file, or is cut short: {error}") from error
    return model


def domain_of(name: str) -> str:
    """Return an operator set's name, `""` for ONNX's own, which has two."""
    return "" if name == "ai.onnx" else name


def opset_of(model: ModelProto | FunctionProto) -> int:
    """Return the opset of ONNX's own domain; 0 where the model imports none."""
    return max((int(entry.version) for entry in model.opset_import if not domain_of(entry.domain)), default=0)


def external_files(model: ModelProto) -> list[External]:
    """Return the files that hold weights of a model, each once."""
    found: dict[str, External] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            parts = re.split(r"[/\\]", str(location))
            plain = (
                isinstance(location, str)
                and bool(location)
                and ".." not in parts
                and parts[0] != ""
                and ":" not in location
            )
            found[location] = External(location, plain and "\0" not in location and len(location) < 255)
    return list(found.values())


def _measure(model: ModelProto) -> None:
    """Refuse a model whose functions call themselves or grow beyond measure, and one whose names are no text."""
    functions = _functions(model)
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterator[NodeProto], depth: int) -> int:
        total = 0
        for node in nodes:
            names = (node.name, node.op_type, node.domain, *node.input, *node.output)
            names += tuple(text for held in node.attribute for text in (held.name, held.ref_attr_name))
            if not all(isinstance(name, str) for name in names):  # protobuf hands over bytes where they are not UTF-8
                raise ModelFileError("the model is damaged: a node has a name that is not UTF-8")
            key = (domain_of(node.domain), node.op_type)
            if key in functions and key not in sizes:
                if depth > _DEEPEST_CALL:
                    raise ModelFileError(
                        f"function {node.op_type[:60]!r} of the model calls itself, or too long a chain"
                    )
                sizes[key] = size(_all_nodes(functions[key].node), depth + 1)
            total += 1 + sizes.get(key, 0)
        return total

    if size(_all_nodes(model.graph.node), 0) > _MOST_NODES:
        raise ModelFileError(f"the model has more than {_MOST_NODES} nodes once its functions are looked into")


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type in _GRAPHS:
                for graph in (attribute.g, *attribute.graphs):
                    yield from _all_nodes(graph.node)


def _functions(model: ModelProto) -> _Functions:
    return {(domain_of(function.domain), function.name): function for function in model.functions}


# -- the walk ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scope:
    """What is known by name inside one graph or function."""

    opset: int
    prefix: str
    module: str
    values: MutableMapping[str, Value]
    constants: MutableMapping[str, TensorProto]
    folded: MutableMapping[str, bool]
    given: Mapping[str, AttributeProto]  # attributes of the call, inside a function


def walk(model: ModelProto, release: tuple[int, int]) -> Iterator[Visit]:
    """Yield every node in order, each before those inside it.

    Raises:
        ModelFileError: the model is damaged, or its functions never end.
    """
    _measure(model)
    scope = _Scope(opset_of(model), "", "", {}, {}, {}, {})
    yield from _graph(model.graph, scope, release, _functions(model))


def _graph(graph: GraphProto, scope: _Scope, release: tuple[int, int], functions: _Functions) -> Iterator[Visit]:
    for value in (*graph.input, *graph.output, *graph.value_info):
        scope.values[value.name] = _value(value)
    for tensor in graph.initializer:
        scope.values[tensor.name] = Value(tensor.data_type, len(tensor.dims))
        scope.constants[tensor.name] = tensor
    yield from _nodes(graph.node, scope, release, functions)


def _nodes(
    nodes: Iterable[NodeProto], scope: _Scope, release: tuple[int, int], functions: _Functions
) -> Iterator[Visit]:
    for index, node in enumerate(nodes):
        attributes = {
            attribute.name: scope.given.get(attribute.ref_attr_name, attribute)
            for attribute in node.attribute
            if not attribute.ref_attr_name or attribute.ref_attr_name in scope.given
        }
        path = scope.prefix + (node.name or next((name for name in node.output if name), f"#{index}"))
        module = _module(node) or scope.module or _by_weight(node, scope)
        domain = domain_of(node.domain)
        function = functions.get((domain, node.op_type))
        _learn(node, domain, attributes, scope)
        site = Site(node, scope.opset, release, attributes, scope.values, scope.constants, scope.folded.keys())
        yield Visit(site, domain, path, module, function is not None)
        if function is not None:
            given = {attribute.name: attribute for attribute in function.attribute_proto} | attributes
            inner = _Scope(opset_of(function) or scope.opset, f"{path}/", module, {}, {}, {}, given)
            for name, outside in zip(function.input, node.input, strict=False):
                _pass(name, outside, scope, inner)
            yield from _nodes(function.node, inner, release, functions)
        for attribute in attributes.values():
            if attribute.type in _GRAPHS:
                for graph in (attribute.g,) if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                    yield from _graph(graph, _inside(scope, f"{path}/", module), release, functions)


def _inside(scope: _Scope, prefix: str, module: str) -> _Scope:
    """Return the scope of a sub-graph, which sees the names around it."""
    return _Scope(
        scope.opset,
        prefix,
        module,
        ChainMap({}, scope.values),
        ChainMap({}, scope.constants),
        ChainMap({}, scope.folded),
        scope.given,
    )


def _pass(name: str, outside: str, scope: _Scope, inner: _Scope) -> None:
    """Hand what is known of a function's argument into it."""
    if outside in scope.values:
        inner.values[name] = scope.values[outside]
    if outside in scope.constants:
        inner.constants[name] = scope.constants[outside]
    if outside in scope.folded:
        inner.folded[name] = True


def _learn(node: NodeProto, domain: str, attributes: Mapping[str, AttributeProto], scope: _Scope) -> None:
    """Note what a node's outputs are, where that is certain."""
    if domain or not node.output:
        return
    output = node.output[0]
    if node.op_type == "Constant":
        tensor = constant_of(attributes)
        if tensor is not None:
            scope.constants[output] = tensor
            scope.values[output] = Value(tensor.data_type, len(tensor.dims))
        return
    if node.op_type == "Identity" and node.input and node.input[0] in scope.constants:
        scope.constants[output] = scope.constants[node.input[0]]
    elif node.op_type in ("QuantizeLinear", "DequantizeLinear") and any(
        name in scope.constants or name in scope.folded for name in node.input[:1]
    ):
        scope.folded[output] = True
    for name, value in zip(
        node.output, infer(node, attributes, scope.opset, scope.values, scope.constants), strict=True
    ):
        stated = scope.values.get(name, UNKNOWN)
        scope.values[name] = Value(stated.type or value.type, value.rank if stated.rank is None else stated.rank)


def _value(value: ValueInfoProto) -> Value:
    tensor = value.type.tensor_type
    return Value(tensor.elem_type, len(tensor.shape.dim) if tensor.HasField("shape") else None)


# -- where a node came from --------------------------------------------------------------------------------------------

_QUOTED = re.compile(r"'([^']*)'")


def _module(node: NodeProto) -> str:
    """Return the module a node came from: PyTorch's note in the file, else the path in its name or its output's name."""
    notes = {entry.key: str(entry.value) for entry in getattr(node, "metadata_props", ())}
    scopes = _QUOTED.findall(notes.get("pkg.torch.onnx.name_scopes", "")[:10_000])
    if len(scopes) > 1 and scopes[-2]:
        return str(scopes[-2])
    for name in (node.name, *node.output[:1]):
        parts: list[str] = []
        for part in filter(None, name.split("/")[:-1]):
            if parts and part.startswith(f"{parts[-1]}."):  # as in "/layer1/layer1.0/conv1/Conv"
                parts.pop()
            parts.append(part)
        if parts:
            return ".".join(parts)
    return ""


def _by_weight(node: NodeProto, scope: _Scope) -> str:
    """Return the module by the name of a weight, such as "layer1.conv.weight"."""
    names = (name for name in node.input if name in scope.constants and "." in name)
    return next((name.rpartition(".")[0] for name in names), "")
