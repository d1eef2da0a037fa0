"""Finds the residual branches of a network from outside, so that a shift can sit inside them."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn

from effvision.errors import InputError

__all__ = ["residual_convolutions"]

_ADDITIONS = {operator.add, operator.iadd, torch.add}


def residual_convolutions(network: nn.Module) -> list[str]:
    """Return the name of the first 2D convolution of every residual branch, in order of execution.

    The network is traced with `torch.fx`. An addition of two values that come from a common one closes a residual block; of its
    two paths, the one with more convolutions is the branch, the other the shortcut.

    Raises:
        InputError: the network cannot be traced, or holds no residual branch with a convolution.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # fx raises many kinds for code that depends on values
        raise InputError(
            f"cannot trace {type(network).__name__} to find its residual branches ({error})\n"
            "hint: name the modules to shift before with `sites=[...]`"
        ) from error
    modules = dict(network.named_modules())
    order = {node: index for index, node in enumerate(graph.nodes)}
    found: dict[str, None] = {}
    for node in graph.nodes:
        if not _is_addition(node):
            continue
        left, right = (argument for argument in node.args[:2])
        assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
        common = _upstream(left) & _upstream(right)
        if not common:
            continue
        fork = max(common, key=order.__getitem__)
        paths = [_convolutions(side, fork, modules, order) for side in (left, right)]
        branch = max(paths, key=len)
        if branch and len(paths[0]) != len(paths[1]):
            found[branch[0]] = None
    if not found:
        raise InputError(
            f"{type(network).__name__} has no residual branch with a convolution\n"
            "hint: name the modules to shift before with `sites=[...]`"
        )
    return list(found)


class _Tracer(fx.Tracer):
    """Takes every kind of 2D convolution as one step, those of other packages with padding of their own included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def _is_addition(node: fx.Node) -> bool:
    called = node.op == "call_function" and node.target in _ADDITIONS
    method = node.op == "call_method" and node.target in ("add", "add_")
    return (called or method) and len(node.args) >= 2 and all(isinstance(a, fx.Node) for a in node.args[:2])


def _upstream(node: fx.Node) -> set[fx.Node]:
    seen, waiting = {node}, [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return seen


def _convolutions(end: fx.Node, fork: fx.Node, modules: dict[str, nn.Module], order: dict[fx.Node, int]) -> list[str]:
    path = _upstream(end) - _upstream(fork)
    inside = sorted((node for node in path if node.op == "call_module"), key=order.__getitem__)
    return [str(node.target) for node in inside if isinstance(modules[str(node.target)], nn.Conv2d)]
