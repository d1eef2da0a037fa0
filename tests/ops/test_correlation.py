"""Correlation of each object's patches with its own picture, against a loop over objects, patches and places."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effvision.errors import ShapeError
from effvision.ops.correlation import correlate, correlate_by_products, patch_energy, response_size

Form = Callable[..., Tensor]
FORMS = pytest.mark.parametrize("form", [correlate, correlate_by_products], ids=["convolutions", "products"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def places(size: int, patch: int, stride: int) -> list[int]:
    """Where a patch begins along one axis."""
    return [begin for begin in range(0, size, stride) if begin + patch <= size]


def slow(search: Tensor, filters: Tensor, stride: int) -> Tensor:
    objects, patches, side = len(search), filters.shape[1], filters.shape[-1]
    begins = places(search.shape[-1], side, stride)
    found = torch.zeros(objects, patches, len(begins), len(begins), dtype=search.dtype)
    for m, p, (r, y), (c, x) in itertools.product(range(objects), range(patches), enumerate(begins), enumerate(begins)):
        found[m, p, r, c] = (search[m, :, y : y + side, x : x + side] * filters[m, p]).sum()
    return found


def slow_energy(search: Tensor, patch: int, stride: int) -> Tensor:
    begins = places(search.shape[-1], patch, stride)
    found = torch.zeros(len(search), 1, len(begins), len(begins), dtype=search.dtype)
    for m, (r, y), (c, x) in itertools.product(range(len(search)), enumerate(begins), enumerate(begins)):
        found[m, 0, r, c] = search[m, :, y : y + patch, x : x + patch].square().sum()
    return found


@FORMS
@settings(max_examples=40)
@given(
    objects=st.integers(0, 3),
    patches=st.integers(1, 3),
    channels=st.integers(1, 3),
    steps=st.integers(1, 3),
    stride=st.integers(1, 4),
    more=st.integers(0, 9),
)
def test_correlation_is_that_of_the_loop(
    form: Form, objects: int, patches: int, channels: int, steps: int, stride: int, more: int
) -> None:
    patch = steps * stride
    search = random(objects, channels, patch + more, patch + more)
    filters = random(objects, patches, channels, patch, patch, seed=1)
    found = form(search, filters, stride=stride)
    assert found.shape[-1] == response_size(patch + more, patch, stride) == len(places(patch + more, patch, stride))
    torch.testing.assert_close(found, slow(search, filters, stride), rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(patch=st.integers(1, 5), stride=st.integers(1, 6), more=st.integers(0, 7))
def test_any_stride_fits_the_convolutions(patch: int, stride: int, more: int) -> None:
    search, filters = random(2, 2, patch + more, patch + more), random(2, 3, 2, patch, patch, seed=1)
    torch.testing.assert_close(
        correlate(search, filters, stride=stride), slow(search, filters, stride), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_both_forms_agree_at_the_sizes_of_the_network(stride: int) -> None:
    search, filters = random(2, 3, 119, 119).float() * 50, random(2, 64, 3, 8, 8, seed=1).float() * 50
    one, other = correlate(search, filters, stride=stride), correlate_by_products(search, filters, stride=stride)
    assert one.shape == (2, 64, 112 // stride, 112 // stride)
    torch.testing.assert_close(one, other, rtol=0, atol=2e-5 * float(one.abs().max()))


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize(("size", "patch", "stride"), [(11, 4, 2), (9, 3, 1), (8, 8, 2)])
def test_both_forms_have_the_gradients_of_the_loop(objects: int, size: int, patch: int, stride: int) -> None:
    search, filters = random(objects, 2, size, size), random(objects, 3, 2, patch, patch, seed=1)
    wanted, weight = None, None
    for form in (slow, correlate, correlate_by_products):
        given_search, given_filters = search.clone().requires_grad_(), filters.clone().requires_grad_()
        found = form(given_search, given_filters, stride=stride)
        weight = random(*found.shape, seed=2)
        gradients = torch.autograd.grad((found * weight).sum(), [given_search, given_filters])
        wanted = wanted or gradients
        for got, right in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(got, right, rtol=0, atol=1e-11)


@FORMS
@pytest.mark.parametrize("scale", [0.0, 1e6])
def test_no_object_sees_another_one(form: Form, scale: float) -> None:
    search, filters = random(4, 3, 12, 12).float(), random(4, 5, 3, 4, 4, seed=1).float()
    before = form(search, filters, stride=2)
    search[[0, 2, 3]] *= scale
    filters[[0, 2, 3]] *= scale
    assert torch.equal(form(search, filters, stride=2)[1], before[1])


@FORMS
def test_without_objects_there_is_no_map_but_its_shape(form: Form) -> None:
    assert form(torch.zeros(0, 3, 119, 119), torch.zeros(0, 64, 3, 8, 8), stride=2).shape == (0, 64, 56, 56)


@settings(max_examples=40)
@given(objects=st.integers(0, 2), patch=st.integers(1, 8), stride=st.integers(1, 4), more=st.integers(0, 9))
def test_energy_is_the_sum_of_squares_under_the_patch(objects: int, patch: int, stride: int, more: int) -> None:
    search = random(objects, 3, patch + more, patch + more)
    found = patch_energy(search, patch=patch, stride=stride)
    torch.testing.assert_close(found, slow_energy(search, patch, stride), rtol=0, atol=1e-11)


def test_energy_at_the_sizes_of_the_network_is_never_below_zero() -> None:
    search = random(2, 3, 119, 119).float() * 60
    search[1, :, 30:90] = 0
    for stride in (1, 2):
        found = patch_energy(search, patch=8, stride=stride)
        wanted = slow_energy(search.double(), 8, stride)
        assert found.min() >= 0 and (found[wanted == 0] == 0).all()
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-3)


@FORMS
@pytest.mark.parametrize(
    ("search", "filters"),
    [
        ((3, 9, 9), (1, 2, 3, 4, 4)),
        ((1, 3, 9, 9), (2, 3, 4, 4)),
        ((2, 3, 9, 9), (1, 2, 3, 4, 4)),  # objects differ
        ((1, 3, 9, 9), (1, 2, 2, 4, 4)),  # channels differ
        ((1, 3, 9, 8), (1, 2, 3, 4, 4)),  # no square picture
        ((1, 3, 9, 9), (1, 2, 3, 4, 2)),  # no square patch
        ((1, 3, 3, 3), (1, 2, 3, 4, 4)),  # a patch that is larger than the picture
    ],
)
def test_shapes_that_do_not_fit_are_refused(form: Form, search: tuple[int, ...], filters: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"`search` must be \(M, C, S, S\) and `filters`"):
        form(torch.zeros(search), torch.zeros(filters))


def test_products_need_a_patch_of_whole_strides() -> None:
    with pytest.raises(ShapeError, match="a patch of 3 pixels cannot be cut into steps of 2"):
        correlate_by_products(torch.zeros(1, 3, 9, 9), torch.zeros(1, 2, 3, 3, 3), stride=2)
