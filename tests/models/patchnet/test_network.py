"""The compact network against the published one written out: dense sums, unfolded pools, the Fourier transform itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effvision.models.patchnet.network import Matcher, PatchAggregate, PatchNet, fourier_matrix

ZERO_MEAN = pytest.mark.parametrize("zero_mean", [False, True], ids=["as published", "zero mean"])


def crops(objects: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Templates and search pictures that hold them, a little changed, besides other things."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(objects, 3, 30, 30, generator=generator, dtype=torch.float64) * 60
    search = torch.nn.functional.interpolate(coarse, (119, 119), mode="bicubic")
    template = search[:, :, 25:89, 30:94] + torch.randn(objects, 3, 64, 64, generator=generator, dtype=torch.float64)
    return template.to(dtype), search.to(dtype)


def shaken(slow: Any, *, zero_mean: bool = False, seed: int = 0) -> PatchNet:
    network: PatchNet = slow.shaken(PatchNet(zero_mean=zero_mean), seed=seed)
    return network


def close(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], share: float) -> None:
    """Within a share of the largest number."""
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=share * max(1e-3, float(other.detach().abs().max())))


# -- the function --------------------------------------------------------------------------------------------------------


@ZERO_MEAN
@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_it_is_the_published_function(slow: Any, zero_mean: bool, seed: int) -> None:
    network = shaken(slow, zero_mean=zero_mean, seed=seed)
    template, search = crops(3, seed=seed)
    single = network(template.float(), search.float())
    assert single[0].shape == (3, 7, 7) and single[1].shape == (3, 4, 7, 7)
    wanted = slow.patch_net(slow.checkpoint(network.double()), template, search, zero_mean=zero_mean)
    assert wanted[0].std() > 0.5 and wanted[1].std() > 0.05  # there is something to agree on
    close(network(template, search), wanted, 1e-12)
    close((single[0].double(), single[1].double()), wanted, 2e-5)


@ZERO_MEAN
@torch.no_grad()
def test_the_form_for_export_is_the_same_function(slow: Any, zero_mean: bool) -> None:
    network = shaken(slow, zero_mean=zero_mean).double()
    template, search = crops(5)
    wanted = network(template, search)
    network.by_products = True
    close(network(template, search), wanted, 1e-12)


@torch.no_grad()
def test_the_hand_set_network_is_the_published_one(slow: Any) -> None:
    network = slow.shaken(PatchAggregate(), by=0.05).double()
    template, search = crops(3)
    dense = slow.checkpoint(_with_taps_of(network))
    wanted = slow.patch_aggregate(template, search, tuple(dense[f"conv{level}.weight"] for level in (2, 3, 4)))
    response, offsets = network(template, search)
    close((response, wanted), (wanted, wanted), 1e-12)
    assert wanted.std() > 0.01
    assert offsets.shape == (3, 4, 7, 7) and not offsets.any()
    network.by_products = True
    close((network(template, search)[0], wanted), (wanted, wanted), 1e-12)


def _with_taps_of(network: PatchAggregate) -> PatchNet:
    other = PatchNet().double()
    for name, parameter in network.named_parameters():
        other.get_parameter(name).data.copy_(parameter)
    return other


@torch.no_grad()
def test_one_matrix_stands_for_the_fourier_transform_both_ways() -> None:
    weight = torch.randn(8, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    patch = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spectrum = torch.fft.rfft2(patch, norm="ortho")
    wanted = torch.fft.irfft2(torch.view_as_complex(torch.view_as_real(spectrum) * weight), s=(8, 8), norm="ortho")
    torch.testing.assert_close((patch.flatten(1) @ fourier_matrix(weight)).view(4, 8, 8), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(fourier_matrix(torch.ones(8, 5, 2)), torch.eye(64), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_template_in_the_middle_of_its_search_picture_is_found_there_and_a_shifted_one_there() -> None:
    """A cell is eight pixels of the search picture, and the middle of seven cells is where nothing moved."""
    _, scene = crops(1, seed=3)
    wide = torch.nn.functional.pad(scene, (40, 40, 40, 40), mode="reflect")
    for network in (PatchNet(zero_mean=True).double(), PatchAggregate().double()):
        for down, right in ((0, 0), (2, -3), (-1, 1), (3, 3)):
            top, left = 40 - 8 * down, 40 - 8 * right
            search = wide[:, :, top : top + 119, left : left + 119]
            response, _ = network(scene[:, :, 28:92, 28:92], search)
            assert divmod(int(response[0].argmax()), 7) == (3 + down, 3 + right)


# -- one object is none of another's business ----------------------------------------------------------------------------


@settings(max_examples=6)
@given(
    seed=st.integers(0, 99), scale=st.sampled_from([0.0, 1e-3, 30.0]), which=st.integers(0, 2), hand_set=st.booleans()
)
@torch.no_grad()
def test_no_object_changes_the_answer_of_another(
    slow: Any, seed: int, scale: float, which: int, hand_set: bool
) -> None:
    network: Matcher = PatchAggregate() if hand_set else shaken(slow, seed=seed)
    template, search = crops(3, seed=seed, dtype=torch.float32)
    before = network(template, search)
    others = [row for row in range(3) if row != which]
    template[others], search[others] = template[others] * scale, search[others].flip(2) * scale
    after = network(template, search)
    assert torch.equal(before[0][which], after[0][which]) and torch.equal(before[1][which], after[1][which])


@pytest.mark.parametrize("by_products", [False, True])
@torch.no_grad()
def test_any_number_of_objects_is_answered_as_one_by_one(slow: Any, by_products: bool) -> None:
    network = shaken(slow, zero_mean=True)
    network.by_products = by_products
    template, search = crops(9, dtype=torch.float32)
    alone = [network(template[row : row + 1], search[row : row + 1]) for row in range(9)]
    for count in (3, 4, 5, 9):
        together = network(template[:count], search[:count])
        wanted = torch.cat([one[0] for one in alone[:count]]), torch.cat([one[1] for one in alone[:count]])
        close(together, wanted, 1e-6)


@pytest.mark.parametrize("network", [PatchNet(), PatchNet(zero_mean=True), PatchAggregate()], ids=["0", "1", "2"])
@pytest.mark.parametrize("by_products", [False, True])
@torch.no_grad()
def test_without_objects_the_answer_is_empty(network: Matcher, by_products: bool) -> None:
    network.by_products = by_products
    response, offsets = network(torch.zeros(0, 3, 64, 64), torch.zeros(0, 3, 119, 119))
    assert response.shape == (0, 7, 7) and offsets.shape == (0, 4, 7, 7)


@pytest.mark.parametrize("network", [PatchNet(), PatchNet(zero_mean=True), PatchAggregate()], ids=["0", "1", "2"])
@torch.no_grad()
def test_plain_pictures_give_finite_answers(network: Matcher) -> None:
    for color in (0.0, 100.0):
        response, offsets = network(torch.full((1, 3, 64, 64), color), torch.full((1, 3, 119, 119), color))
        assert response.isfinite().all() and offsets.isfinite().all()


# -- its numbers ---------------------------------------------------------------------------------------------------------


def test_it_has_358_numbers_and_starts_with_the_published_structure() -> None:
    network = PatchNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 358
    start = {name: set(parameter.flatten().tolist()) for name, parameter in network.named_parameters()}
    assert start["frequencies"] == {1.0}
    assert start["taps2"] == start["taps3"] == start["taps4"] == {0.25}
    assert start["edges3"] == start["edges4"]
    assert sorted({round(value, 6) for value in start["edges3"]}) == [-0.0625, 0.0625, 0.1875]
    assert start["pool2.sharpness"] == start["pool3.sharpness"] == {1.0}
    rows, columns = [-0.5, -0.5, 0.5, 0.5], [-0.5, 0.5, -0.5, 0.5]
    assert network.pool2.moves.tolist() == network.pool3.moves.tolist() == [rows, rows, columns, columns]


def test_a_parent_s_edges_start_as_the_least_squares_of_its_children_s() -> None:
    """A child at the low end has the parent's low edge and half of both as its own; the other one likewise."""
    ends = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    for edges in (PatchNet().edges3, PatchNet().edges4):
        for parent in edges.detach().double():
            for low, high in ((-1.5, 2.0), (1.0, 1.0), (0.25, -3.0)):
                child = (ends @ torch.tensor([low, high], dtype=torch.float64)).view(2, 2)  # place, edge
                for axis in (0, 1):
                    place = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]][axis])
                    found = (parent[axis] * child[place]).sum((1, 2))
                    # the authors divide by all four children, of which two lie at either end: a half of it
                    torch.testing.assert_close(found.tolist(), [low / 2, high / 2], rtol=0, atol=1e-6)


@ZERO_MEAN
def test_gradients_are_those_of_the_published_function_and_reach_every_number(slow: Any, zero_mean: bool) -> None:
    """The published function takes the normaliser out of the gradient; one that flowed through it would show here."""
    network = shaken(slow, zero_mean=zero_mean).double()
    template, search = crops(2)
    found = []
    for form in (
        lambda z, x: network(z, x),
        lambda z, x: slow.patch_net(slow.checkpoint(network), z, x, zero_mean=zero_mean),
    ):
        inputs = template.clone().requires_grad_(), search.clone().requires_grad_()
        response, offsets = form(*inputs)
        loss = (
            response.square() * torch.linspace(0, 1, 49, dtype=torch.float64).view(7, 7)
        ).sum() + offsets.cos().sum()
        found.append(torch.autograd.grad(loss, [*network.parameters(), *inputs]))
    for (name, _), got, wanted in zip(
        [*network.named_parameters(), ("template", None), ("search", None)], *found, strict=True
    ):
        assert bool(got.abs().max() > 0), name
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10 * float(wanted.abs().max()), msg=name)
