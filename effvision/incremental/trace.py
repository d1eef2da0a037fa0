"""A network as a list of operations with fixed shapes, and the rule of each.

`torch.export` follows the network once with the example; constants are folded, operations in place become plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from effvision.errors import InputError
from effvision.host.edit_axes import Axis
from effvision.incremental.lookup import Call, find_rule
from effvision.incremental.rules import Rule

__all__ = ["Graph", "Slot", "Value", "packed", "trace"]


@dataclass(eq=False)
class Value:
    """One tensor of the network.

    Attributes:
        index: Its place in `Graph.values`; what it is made of comes before it.
        name: As in the exported graph.
        operation: What makes it (`conv2d`), `input` or `constant`.
        shape, dtype: Of the tensor.
        picture: Whether it has rows and columns: (N, C, H, W), and not queries or windows that merely have four axes.
        inputs: The values it is made of.
        call: Makes all of it from all of them.
        rule: How to make a part of it; None if there is no way.
        reason: Why there is none.
        macs: Multiply-adds of making all of it: convolutions, products of matrices, attention.
        given: The operation's arguments by name, defaults filled in; a `Slot` where an input goes.
        part: Which of the operation's results it is, if there are several.
    """

    index: int
    name: str
    operation: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    picture: bool
    inputs: tuple[int, ...] = ()
    call: Callable[[Sequence[Tensor]], Tensor] | None = None
    rule: Rule | None = None
    reason: str = ""
    macs: float = 0.0
    given: Mapping[str, Any] = field(default_factory=dict)
    part: int | None = None

    @property
    def axes(self) -> tuple[tuple[Axis, Axis] | None, ...]:
        """The rule's rows and columns for each input; empty if there is no rule."""
        return () if self.rule is None else self.rule.axes

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns; (1, 1) of what is no picture."""
        return (self.shape[2], self.shape[3]) if self.picture else (1, 1)

    @cached_property
    def elements(self) -> int:
        """How many numbers it holds."""
        return int(torch.Size(self.shape).numel())

    @cached_property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.elements * self.dtype.itemsize


@dataclass
class Graph:
    """A network, written out.

    Attributes:
        values: Every tensor, in an order in which they can be computed.
        inputs: The inputs, in the order of the call.
        outputs: The outputs, flattened.
        constants: Tensors that do not depend on the inputs but have to be cut like pictures.
        structure: How the outputs are packed (tuple, dictionary, ...).
    """

    values: list[Value] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    constants: dict[int, Tensor] = field(default_factory=dict)
    structure: Any = None

    def add(self, value: Value) -> int:
        """Append a value; return its index."""
        self.values.append(value)
        return value.index


@dataclass(frozen=True)
class Slot:
    """The place of an input among the arguments of an operation."""

    number: int


def _fill(argument: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(argument, Slot):
        return tensors[argument.number]
    if isinstance(argument, (list, tuple)):
        return [_fill(item, tensors) for item in argument]
    return argument


def _dense_macs(name: str, inputs: Sequence[Tensor], elements: int) -> float:
    """Multiply-adds of an operation without a rule that has any: products of matrices, and attention."""
    if name in ("linear", "matmul", "mm", "bmm"):
        return float(elements * inputs[0].shape[-1])
    if name == "scaled_dot_product_attention" and len(inputs) >= 3:
        return float(elements * inputs[1].shape[-2] * 2)
    return 0.0


class _Tracer:
    """Turns an exported program into a `Graph`."""

    def __init__(self, program: Any, frozen: bool) -> None:
        self.program = program
        self.frozen = frozen
        self.graph = Graph()
        self.known: dict[fx.Node, Any] = {}  # index of a value (int), or constants (tensors, numbers, lists of them)
        self.parts: dict[fx.Node, fx.Node] = {}  # operations with several results
        self.root: dict[fx.Node, fx.Node] = {}  # nodes that an operation in place made one tensor
        self.memory: dict[fx.Node, fx.Node] = {}  # nodes that share memory: the first of them
        self.order = {node: number for number, node in enumerate(program.graph.nodes)}

    def run(self) -> Graph:
        """Go through the program once."""
        placeholders = {}
        for spec in self.program.graph_signature.input_specs:
            placeholders[spec.arg.name] = spec
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, placeholders[node.name])
            elif node.op == "call_function":
                self._operation(node)
            elif node.op == "output":
                self._outputs(node)
            else:
                raise InputError(
                    f"the network holds `{node.op}` ({node.name}), which cannot be followed\n"
                    "hint: write that part with plain PyTorch operations"
                )
        return self.graph

    def _placeholder(self, node: fx.Node, spec: Any) -> None:
        if spec.kind == InputKind.USER_INPUT:
            meta = node.meta.get("val")
            if not isinstance(meta, Tensor):
                raise InputError(
                    f"the input `{node.name}` is no tensor but {type(meta).__name__}\n"
                    "hint: give tensors only; wrap the network in a module that knows the other arguments"
                )
            value = Value(len(self.graph.values), node.name, "input", tuple(meta.shape), meta.dtype, meta.ndim == 4)
            self.graph.inputs.append(self.graph.add(value))
            self.known[node] = value.index
            return
        held = self.program.constants if spec.target in self.program.constants else self.program.state_dict
        self.known[node] = held[spec.target].detach()

    def _look_up(self, node: fx.Node) -> Any:
        return self.known[self.root.get(node, node)]

    def _operation(self, node: fx.Node) -> None:
        if getattr(node.target, "__name__", "") == "getitem":
            source, number = cast(fx.Node, node.args[0]), cast(int, node.args[1])
            self.memory[node] = self.memory.get(source, source)
            if source in self.parts:
                self._make(node, self.parts[source], number)
            else:
                self.known[node] = self._look_up(source)[number]
            return
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            raise InputError(
                f"the network calls {target!r}, which is no operation on tensors\n"
                "hint: branches on values and custom Python in the graph cannot be followed; move them outside"
            )
        written = target._schema.is_mutable
        if written:
            self._check_in_place(node)
        elif any(argument.alias_info for argument in target._schema.arguments) or (
            torch.Tag.maybe_aliasing_or_mutating in target.tags
        ):
            first = next((item for item in node.all_input_nodes), None)
            if first is not None:
                self.memory[node] = self.memory.get(first, first)
        if isinstance(node.meta.get("val"), (list, tuple)) and self._depends(node):
            self.parts[node] = node
            return
        self._make(node, node, None)
        if written:
            mutated = cast(fx.Node, node.args[0])
            old = self.root.get(mutated, mutated)
            self.known[old] = self.known[node]
            self.root[node] = old
            self.memory[node] = self.memory.get(old, old)

    def _check_in_place(self, node: fx.Node) -> None:
        """Refuse what is written in place where something else sees it."""
        mutated = node.args[0]
        if not isinstance(mutated, fx.Node) or not str(node.target.__name__).split(".")[0].endswith("_"):  # type: ignore[union-attr]
            raise InputError(f"the network writes in place by `{node.target}`\nhint: write the same without `out=`")
        first = self.memory.get(mutated, mutated)
        tensor = self.root.get(mutated, mutated)
        if first.op == "placeholder":
            raise InputError(
                f"the network writes into `{first.name}` in place ({node.name}): into an input, a weight or a buffer\n"
                "hint: use the operation that returns a new tensor"
            )
        others = [other for other in (*self.memory, first) if self.memory.get(other, other) is first]
        for other in others:
            if self.root.get(other, other) is tensor or other is tensor:
                continue
            later = [user for user in other.users if self.order[user] > self.order[node]]
            if later:
                raise InputError(
                    f"the network writes into `{mutated.name}` in place ({node.name}), which shares memory with "
                    f"`{other.name}`, read later by `{later[0].name}`\n"
                    "hint: use the operation that returns a new tensor"
                )

    def _depends(self, node: fx.Node) -> bool:
        return any(item in self.parts or isinstance(self._look_up(item), int) for item in node.all_input_nodes)

    def _make(self, node: fx.Node, source: fx.Node, part: int | None) -> None:
        """Make the value of `node` by the operation of `source`, result number `part` of several."""
        target: Any = source.target
        name = str(target._schema.name).removeprefix("aten::")
        if target._schema.is_mutable:
            name = name.removesuffix("_")
            target = getattr(getattr(torch.ops.aten, name), target._overloadname)
        slots: list[int] = []
        arguments = [argument.name for argument in target._schema.arguments]
        given = dict(zip(arguments, source.args, strict=False)) | dict(source.kwargs)
        self._check_random(source, given)
        is_pointwise = torch.Tag.pointwise in target.tags
        out = node.meta.get("val")
        filled = {
            key: fx.map_arg(item, lambda n: self._argument(n, slots, is_pointwise, out)) for key, item in given.items()
        }
        filled = {key: self._laid_out(name, key, item) for key, item in filled.items()}
        positional = {a.name for a in target._schema.arguments if not a.kwarg_only}
        args = [filled[key] for key in given if key in positional]
        keywords = {key: item for key, item in filled.items() if key not in positional}

        def call(tensors: Sequence[Tensor]) -> Tensor:
            result = target(*(_fill(item, tensors) for item in args), **keywords)
            return result if part is None else result[part]  # type: ignore[no-any-return]

        if not slots:
            with torch.no_grad():
                self.known[node] = target(*args, **keywords) if part is None else call(())
            return
        if not isinstance(out, Tensor):
            raise InputError(
                f"the network turns a tensor into a Python number by `{name}`\n"
                "hint: what depends on the values of the input cannot be followed; move it outside"
            )
        metas = [self._meta(index) for index in slots]
        defaults = {a.name: a.default_value for a in target._schema.arguments if a.has_default_value()}
        views = {key: fx.map_arg(item, lambda n: n) for key, item in filled.items()}
        views = {key: metas[item.number] if isinstance(item, Slot) else item for key, item in views.items()}
        description = Call(
            name=name,
            given=defaults | views,
            inputs=tuple(metas),
            pictures=tuple(self.graph.values[index].picture for index in slots),
            output=torch.empty(out.shape, dtype=out.dtype, device="meta"),
            pointwise=is_pointwise,
            run=call,
            frozen=self.frozen,
        )
        with torch.no_grad():
            found = find_rule(description)
        picture = not isinstance(found, str) or self._is_picture(tuple(out.shape))
        value = Value(len(self.graph.values), node.name, name, tuple(out.shape), out.dtype, picture, tuple(slots), call)
        value.given, value.part = defaults | filled, part
        if isinstance(found, str):
            value.reason = found
            value.macs = _dense_macs(name, metas, value.elements)
        else:
            value.rule = found
            value.macs = found.macs * value.size[0] * value.size[1]
        self.known[node] = self.graph.add(value)

    def _is_picture(self, shape: tuple[int, ...]) -> bool:
        """Whether what an operation without a rule gives is a picture: as large as one that is, or one pixel."""
        if len(shape) != 4:
            return False
        known = {(value.shape[0], *value.size) for value in self.graph.values if value.picture}
        return shape[2:] == (1, 1) or (shape[0], *shape[2:]) in known

    def _argument(self, node: fx.Node, slots: list[int], is_pointwise: bool, out: Any) -> Any:
        """Put a slot for what depends on the inputs or has to be cut like a picture, the tensor itself for other constants."""
        item = self._look_up(node)
        if isinstance(item, Tensor) and is_pointwise and isinstance(out, Tensor) and out.ndim == 4 and item.ndim:
            wide = item[(None,) * (4 - item.ndim)] if item.ndim < 4 else item
            if wide.shape[2] > 1 or wide.shape[3] > 1:
                value = Value(len(self.graph.values), node.name, "constant", tuple(wide.shape), wide.dtype, True)
                self.graph.constants[self.graph.add(value)] = wide
                item = value.index
        if not isinstance(item, int) or isinstance(item, bool):
            return item
        if item not in slots:
            slots.append(item)
        return Slot(slots.index(item))

    def _laid_out(self, name: str, key: str, item: Any) -> Any:
        if key == "weight" and isinstance(item, Tensor) and item.ndim == 4 and name.startswith("conv"):
            return item.contiguous(memory_format=torch.channels_last)
        return item

    def _meta(self, index: int) -> Tensor:
        value = self.graph.values[index]
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    def _check_random(self, node: fx.Node, given: dict[str, Any]) -> None:
        if torch.Tag.nondeterministic_seeded not in node.target.tags:  # type: ignore[union-attr]
            return
        off = given.get("train", given.get("training", True)) is False
        if not off and "attention" in str(node.target):
            off = given.get("dropout_p", 0.0) == 0.0
        if not off:
            raise InputError(
                f"the network draws random numbers (`{node.target}`): what it computed before could not be kept\n"
                "hint: call network.eval(), and give noise as an input"
            )

    def _outputs(self, node: fx.Node) -> None:
        for item in node.args[0]:  # type: ignore[union-attr]
            found = self._look_up(item) if isinstance(item, fx.Node) else None
            if not isinstance(found, int):
                raise InputError(
                    "the network returns something that does not depend on its inputs\nhint: return tensors it computes"
                )
            self.graph.outputs.append(found)
        self.graph.structure = self.program.call_spec.out_spec


def trace(network: torch.nn.Module, example: tuple[Tensor, ...], *, frozen: bool) -> Graph:
    """Follow a network once.

    Args:
        network: Any module in eval mode.
        example: Its inputs.
        frozen: Whether instance and group norms keep the statistics of the first pass, and so have a rule.

    Raises:
        InputError: it draws random numbers, writes in place where others see it, branches on values, or cannot be exported.
    """
    training = [name or "the network itself" for name, module in network.named_modules() if module.training]
    if training:
        raise InputError(
            f"the network is in training mode ({training[0]}): dropout would draw, batch norms would follow the batch\n"
            "hint: call network.eval() first"
        )
    try:
        program = torch.export.export(network, example, strict=False)
    except InputError:
        raise
    except Exception as error:  # the exporter raises many kinds
        message = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the network cannot be followed with this example: {message[0]}\n"
            "hint: call it with the same example first; branches on values of tensors have to move outside"
        ) from error
    graph = _Tracer(program, frozen).run()
    if not graph.outputs:
        raise InputError("the network returns nothing\nhint: return at least one tensor")
    return graph


def packed(graph: Graph, outputs: Sequence[Tensor]) -> Any:
    """Give outputs the structure in which the network returns them."""
    return pytree.tree_unflatten(list(outputs), graph.structure)
