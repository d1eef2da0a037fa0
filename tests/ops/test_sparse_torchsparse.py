"""Tensors of torchsparse 2.1 in and out, against a stand-in with its attributes: torchsparse itself has not been run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from effvision.errors import DTypeError, InputError, MissingDependencyError, ShapeError
from effvision.ops.sparse import SparseTensor as OurSparseTensor
from effvision.ops.sparse_torchsparse import from_torchsparse, to_torchsparse


@dataclass
class SparseTensor:
    """What torchsparse 2.1 calls so, as far as its attributes go: coordinates are batch, x, y, z."""

    feats: Tensor
    coords: Tensor
    stride: tuple[int, int, int] = (1, 1, 1)
    spatial_range: Any = None
    _caches: dict[str, Any] = field(default_factory=dict)


@dataclass
class OlderSparseTensor:
    """That of torchsparse 1.4: coordinates are x, y, z, batch and multiples of the stride, under the same names."""

    feats: Tensor
    coords: Tensor
    stride: tuple[int, int, int] = (1, 1, 1)
    cmaps: dict[Any, Any] = field(default_factory=dict)
    kmaps: dict[Any, Any] = field(default_factory=dict)


@pytest.fixture
def torchsparse(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The stand-in, installed; negative coordinates are off, as they are there."""
    flags = SimpleNamespace(get_allow_negative_coordinates=lambda: False)
    module = SimpleNamespace(SparseTensor=SparseTensor, tensor=flags)
    monkeypatch.setitem(sys.modules, "torchsparse", module)
    return module


FEATS = torch.arange(6.0).view(3, 2)
XYZB = torch.tensor([[5, 6, 7, 0], [5, 6, 8, 0], [1, 2, 3, 1]])


def test_coordinates_come_in_with_the_batch_last_and_undivided() -> None:
    theirs = SparseTensor(FEATS, torch.tensor([[0, 5, 6, 7], [1, 1, 2, 3], [0, 5, 6, 8]], dtype=torch.int32), (2, 2, 2))
    feats, coords, stride = from_torchsparse(theirs)
    assert feats is FEATS and stride == (2, 2, 2) and coords.dtype == torch.int32
    assert coords.tolist() == [[5, 6, 7, 0], [1, 2, 3, 1], [5, 6, 8, 0]]


def test_coordinates_go_out_with_the_batch_first(torchsparse: SimpleNamespace) -> None:
    made = to_torchsparse(FEATS, XYZB, 4)
    assert isinstance(made, SparseTensor) and made.feats is FEATS and made.stride == (4, 4, 4)
    assert made.coords.tolist() == [[0, 5, 6, 7], [0, 5, 6, 8], [1, 1, 2, 3]]
    assert made.coords.dtype == torch.int32 and made.coords.is_contiguous()


@pytest.mark.parametrize("stride", [1, (1, 2, 4)])
def test_there_and_back_is_where_one_was(torchsparse: SimpleNamespace, stride: Any) -> None:
    feats, coords, steps = from_torchsparse(to_torchsparse(FEATS, XYZB, stride))
    assert feats is FEATS and torch.equal(coords, XYZB.int()) and steps == (stride if stride != 1 else (1, 1, 1))


def test_a_tensor_of_ours_is_made_of_it_and_goes_back_sorted(torchsparse: SimpleNamespace) -> None:
    theirs = SparseTensor(FEATS, torch.tensor([[1, 1, 2, 3], [0, 5, 6, 8], [0, 5, 6, 7]], dtype=torch.int32), (2, 2, 2))
    feats, coords, stride = from_torchsparse(theirs)
    ours = OurSparseTensor(feats, coords, stride=stride)
    assert torch.equal(ours.given(), FEATS) and ours.stride == (2, 2, 2)
    back = to_torchsparse(ours.feats, ours.coords, ours.stride)
    assert back.coords.tolist() == [[0, 5, 6, 7], [0, 5, 6, 8], [1, 1, 2, 3]]
    assert torch.equal(back.feats, FEATS.flip(0)) and back.stride == (2, 2, 2)


def test_a_tensor_of_an_older_torchsparse_is_refused_both_ways(torchsparse: SimpleNamespace) -> None:
    with pytest.raises(InputError, match=r"OlderSparseTensor.*no spatial_range(.|\n)*hint: torchsparse 1 and 2.0"):
        from_torchsparse(OlderSparseTensor(FEATS, XYZB.int()))
    torchsparse.SparseTensor = OlderSparseTensor
    with pytest.raises(InputError, match=r"older than 2\.1"):
        to_torchsparse(FEATS, XYZB)


def test_negative_coordinates_go_only_where_torchsparse_was_told(torchsparse: SimpleNamespace) -> None:
    with pytest.raises(InputError, match=r"down to -3(.|\n)*hint: torchsparse.tensor.set_allow_negative"):
        to_torchsparse(FEATS, XYZB - torch.tensor([4, 4, 4, 0]))
    torchsparse.tensor.get_allow_negative_coordinates = lambda: True
    made = to_torchsparse(FEATS, XYZB - torch.tensor([4, 4, 4, 0]))
    assert made.coords[2].tolist() == [1, -3, -2, -1]


def test_without_torchsparse_the_error_has_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchsparse", None)
    with pytest.raises(
        MissingDependencyError, match=r"hint: pip install git\+https://github.com/mit-han-lab/torchsparse"
    ):
        to_torchsparse(FEATS, XYZB)


def test_rows_and_dtypes_that_do_not_fit_are_refused(torchsparse: SimpleNamespace) -> None:
    with pytest.raises(ShapeError, match=r"\(2, 2\) and \(3, 4\)"):
        to_torchsparse(FEATS[:2], XYZB)
    with pytest.raises(ShapeError):
        from_torchsparse(SparseTensor(FEATS, XYZB[:, :3]))
    with pytest.raises(DTypeError, match=r"float32 and torch\.float32"):
        to_torchsparse(FEATS, XYZB.float())
    with pytest.raises(InputError, match="`stride`"):
        to_torchsparse(FEATS, XYZB, 0)
