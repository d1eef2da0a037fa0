"""An engine's picture taken out and put in again, and a second engine of the same network."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from effvision.errors import StateError
from effvision.host import edit_journal
from effvision.incremental.journal import Maps
from effvision.incremental.rules import Affine
from effvision.incremental.trace import Graph, Value

__all__ = ["apart", "kept_maps", "own", "restored"]

_STATISTICS = ("scale", "shift")


def apart(graph: Graph) -> Graph:
    """A graph that shares weights with another and nothing that an engine writes to: what norms keep of the first pass."""
    values = []
    for value in graph.values:
        rule = value.rule
        if isinstance(rule, Affine):
            rule = copy.copy(rule)
            rule.scale = rule.shift = None
        values.append(replace(value, rule=rule))
    return replace(graph, values=values)


def _computed(graph: Graph, kept: Container[int]) -> list[Value]:
    return [value for value in graph.values if value.index in kept and value.call is not None]


def _norms(graph: Graph) -> list[tuple[Value, Affine]]:
    return [(value, value.rule) for value in graph.values if isinstance(value.rule, Affine)]


def kept_maps(graph: Graph, kept: Container[int], maps: edit_journal.Maps) -> dict[str, Tensor]:
    """Every map that was computed, and the statistics of the first pass, by name; not the inputs. No copies."""
    found = {value.name: maps[value.index] for value in _computed(graph, kept)}
    for value, rule in _norms(graph):
        for part in _STATISTICS:
            tensor = getattr(rule, part)
            if tensor is not None:
                found[f"{value.name}.{part}"] = tensor
    return found


def restored(
    graph: Graph, kept: Container[int], inputs: Sequence[Tensor], given: Mapping[str, Tensor], device: torch.device
) -> Maps:
    """Put maps of `kept_maps` and the inputs they belong to in place; they are copied.

    Raises:
        StateError: other names, shapes or dtypes than this network's. Nothing was changed.
    """
    wanted = {value.name: (value.shape, value.dtype) for value in _computed(graph, kept)}
    statistics = {f"{value.name}.{part}" for value, _ in _norms(graph) for part in _STATISTICS}
    if set(given) != {*wanted, *statistics}:
        odd = sorted({*wanted, *statistics} ^ set(given))
        raise StateError(f"these are the maps of another network, mode or engine: they differ in {', '.join(odd[:4])}")
    for name, (shape, dtype) in wanted.items():
        if tuple(given[name].shape) != shape or given[name].dtype != dtype:
            raise StateError(
                f"`{name}` is {tuple(given[name].shape)} {given[name].dtype}; this network's is {shape} {dtype}"
            )
    for value, _ in _norms(graph):
        shape = (*value.shape[:2], 1, 1)
        for part in _STATISTICS:
            if tuple((found := given[f"{value.name}.{part}"]).shape) != shape or found.dtype != value.dtype:
                raise StateError(
                    f"`{value.name}.{part}` is {tuple(found.shape)} {found.dtype}; this network's is {shape}"
                )
    maps = Maps()
    for index, tensor in zip(graph.inputs, inputs, strict=True):
        maps.replace(index, own(tensor), None)
    for index, tensor in graph.constants.items():
        maps.replace(index, tensor, None)
    for value in _computed(graph, kept):
        maps.replace(value.index, own(given[value.name].to(device)), None)
    for value, rule in _norms(graph):
        rule.scale, rule.shift = (own(given[f"{value.name}.{part}"].to(device)) for part in _STATISTICS)
    return maps


def own(tensor: Tensor) -> Tensor:
    """A copy that nobody else can change; channels-last, as convolutions like it."""
    return tensor.detach().clone(memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format)
