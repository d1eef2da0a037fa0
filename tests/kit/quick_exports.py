"""PyTorch's exporter without the work it does again for every export: half the time of a small one, a third of a large one.

What it makes of a network is the same, byte for byte. Only for tests: it reaches into two libraries.
"""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["hasten"]


def hasten(registration: Any) -> None:
    """Do it once; `registration` is the exporter's module of that name, which is loaded by the first export."""
    if not hasattr(registration, "hastened"):
        registration.hastened = True
        _keep_tables(registration.ONNXRegistry)
        _look_before_listing()


def _keep_tables(registry: Any) -> None:
    """It reads the source text of 500 operators for each export."""
    make, tables = registry.from_torchlib, {}

    def from_torchlib(*opset: int, **named: int) -> Any:
        key = (*opset, *named.values())
        if key not in tables:
            tables[key] = make(*opset, **named)
        made = copy.copy(tables[key])
        made.functions = {name: list(forms) for name, forms in made.functions.items()}  # an export adds its own
        return made

    registry.from_torchlib = staticmethod(from_torchlib)


def _look_before_listing() -> None:
    """For a rule with two ends it lists the whole graph at every node, also where the first end is of another kind."""
    from onnxscript.rewriter import _basics, _matcher

    match = _matcher.SimplePatternMatcher.match

    def quick(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        if not self.pattern.has_single_output_node:
            kind = self.pattern.output_nodes[0].op_identifier()
            if kind is not None and kind != node.op_identifier():
                return _basics.MatchResult().fail("another operator")
        return match(self, model, graph, node, **options)

    _matcher.SimplePatternMatcher.match = quick
