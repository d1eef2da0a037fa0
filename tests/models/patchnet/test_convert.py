"""Published layouts in: the same function comes out, and what is no such checkpoint is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effvision import PatchNet as Predictor
from effvision.errors import CheckpointError, InputError
from effvision.models.patchnet.convert import from_reference
from effvision.models.patchnet.network import PatchAggregate, PatchNet

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def compact(slow: Any) -> PatchNet:
    network: PatchNet = slow.shaken(PatchNet())
    return network


@pytest.fixture
def state(slow: Any, compact: PatchNet) -> State:
    return {name: value.detach().clone() for name, value in slow.checkpoint(compact).items()}


@pytest.fixture
def hand_set(slow: Any, compact: PatchNet) -> State:
    dense = slow.checkpoint(compact)
    made = {f"w{level}": dense[f"conv{level}.weight"].detach() for level in (2, 3, 4)}
    return {**made, "offset_addi": torch.zeros(4, 4, 1, 1)}


def crops(objects: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    search = torch.randn(objects, 3, 119, 119, generator=generator, dtype=torch.float64) * 50
    return search[:, :, 20:84, 30:94].clone(), search


def same(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


# -- what comes out ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_gives_the_numbers_it_was_made_of(compact: PatchNet, state: State) -> None:
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "feature_layer.freq_coeff": (8, 5, 2),
        "conv2.weight": (16, 64, 5, 5),
        "conv3.weight": (4, 16, 5, 5),
        "conv4.weight": (1, 4, 5, 5),
        "conv3reg.weight": (16, 64, 5, 5),
        "conv4reg.weight": (4, 16, 5, 5),
        "pool2.offset_addi": (4, 4, 1, 1),
        "pool2.alpha": (1,),
        "pool3.offset_addi": (4, 4, 1, 1),
        "pool3.alpha": (1,),
    }
    assert sum(value.numel() for value in state.values()) == 54_614
    counts = {name: int((state[name] != 0).sum()) for name in state if name.startswith("conv")}
    assert list(counts.values()) == [64, 16, 4, 128, 32]
    network = from_reference(state)
    assert isinstance(network, PatchNet) and not network.training and not network.zero_mean
    for name, value in compact.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.parametrize("zero_mean", [False, True])
@torch.no_grad()
def test_a_grouped_checkpoint_is_the_same_function_though_its_channels_come_by_quarters(
    slow: Any, compact: PatchNet, state: State, zero_mean: bool
) -> None:
    other = slow.grouped(state)
    assert other["conv2.weight"].shape == (16, 4, 5, 5)
    assert int((other["conv2.weight"] != 0).sum()) == 64
    network = from_reference(other, variant="patchnetg", zero_mean=zero_mean)
    assert isinstance(network, PatchNet) and network.zero_mean is zero_mean
    for name, value in compact.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    wanted = slow.patch_net({k: v.double() for k, v in other.items()}, *crops(), zero_mean=zero_mean, by_groups=True)
    same(network.double()(*crops()), wanted)


@torch.no_grad()
def test_a_hand_set_checkpoint_gives_the_hand_set_network(slow: Any, hand_set: State) -> None:
    network = from_reference(hand_set, variant="patchaggregate")
    assert isinstance(network, PatchAggregate) and network.zero_mean and not network.training
    wanted = slow.patch_aggregate(*crops(), tuple(hand_set[f"w{level}"].double() for level in (2, 3, 4)))
    same(network.double()(*crops()), (wanted, torch.zeros(1, 4, 7, 7, dtype=torch.float64)))


def test_the_order_of_the_keys_and_a_prefix_do_not_matter(compact: PatchNet, state: State) -> None:
    for given in ({f"module.{name}": value for name, value in state.items()}, dict(reversed(state.items()))):
        own = from_reference(given).state_dict()
        assert all(torch.equal(own[name], value) for name, value in compact.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_floating_precision_are_taken(state: State, dtype: torch.dtype) -> None:
    network = from_reference({name: value.to(dtype) for name, value in state.items()})
    assert {value.dtype for value in network.parameters()} == {torch.float32}


def test_structural_zeros_may_be_stored_as_denormals(compact: PatchNet, state: State) -> None:
    state["conv2.weight"][state["conv2.weight"] == 0] = 1e-41
    assert torch.equal(from_reference(state).get_parameter("taps2"), compact.taps2)


def test_the_network_does_not_share_memory_with_the_checkpoint(state: State) -> None:
    network = from_reference(state)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for value in state.values():
        value.zero_()
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_file_opens_as_a_predictor(compact: PatchNet, state: State, tmp_path: Path, prefix: str) -> None:
    torch.save({f"{prefix}{name}": value for name, value in state.items()}, tmp_path / "mine.pth")
    model = Predictor.from_pretrained(tmp_path / "mine.pth", card="patchnet-got10k", runtime="torch")
    own: Any = model.runtime.modules["step"].network  # type: ignore[attr-defined]
    assert torch.equal(own.taps3, compact.taps3)
    assert model.metadata.options["zero_mean"] is True  # the card matches so, though it was trained without


# -- what is refused -----------------------------------------------------------------------------------------------------


def without(name: str) -> Callable[[State], Any]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def changed(name: str, value: Any) -> Callable[[State], Any]:
    return lambda state: {**state, name: value(state[name]) if callable(value) else value}


def with_tap(name: str, *place: int) -> Callable[[State], Any]:
    def change(state: State) -> State:
        weight = state[name].clone()
        weight[place] = 1e-3
        return {**state, name: weight}

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("conv3.weight"), [r"missing ['conv3.weight']", "besides nothing", "hint:"]),
        (changed("extra", torch.zeros(1)), ["missing nothing", "besides ['extra']", "hint:"]),
        (changed("conv4.weight", lambda value: value[..., :3]), ["`conv4.weight`", "(1, 4, 5, 5)", "(1, 4, 5, 3)"]),
        (changed("pool2.alpha", lambda value: value[0]), ["`pool2.alpha`", "(1,)", "()"]),
        (changed("conv3reg.weight", lambda value: value * torch.nan), ["`conv3reg.weight`", "not finite"]),
        (changed("pool3.alpha", torch.tensor([torch.inf])), ["`pool3.alpha`", "not finite"]),
        (with_tap("conv2.weight", 0, 0, 2, 2), ["`conv2.weight`", "taps", "hint:"]),
        (with_tap("conv2.weight", 0, 2, 0, 0), ["`conv2.weight`", "taps"]),  # another parent's child
        (with_tap("conv3.weight", 3, 10, 4, 0), ["`conv3.weight`", "taps"]),
        (with_tap("conv4.weight", 0, 0, 4, 4), ["`conv4.weight`", "taps"]),  # another child's place
        (with_tap("conv3reg.weight", 0, 2, 0, 0), ["`conv3reg.weight`", "taps"]),  # ymin from a child's xmin
        (with_tap("conv4reg.weight", 3, 1, 0, 0), ["`conv4reg.weight`", "taps"]),
        (changed("conv4.weight", 3), ["`conv4.weight`", "int"]),
        (changed("conv4.weight", "text"), ["`conv4.weight`", "str"]),
        (changed("conv4.weight", None), ["`conv4.weight`", "NoneType"]),
        (changed("pool2.alpha", torch.tensor([1])), ["`pool2.alpha`", "int64"]),
        (changed("conv4.weight", lambda value: value.to(torch.complex64)), ["`conv4.weight`", "complex64"]),
        (lambda state: {}, ["missing", "conv2.weight"]),
        (lambda state: None, ["NoneType"]),
        (lambda state: [*state.values()], ["list"]),
        (lambda state: {1: torch.zeros(1), **state}, ["names and tensors"]),
        (lambda state: {"state_dict": state}, ["`state_dict`", "dict", "hint:"]),
        (lambda state: {**state, "module.pool2.alpha": torch.ones(1)}, ["`pool2.alpha`", "twice"]),
    ],
)
def test_what_is_no_checkpoint_of_it_is_refused(state: State, change: Callable[[State], Any], words: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_reference(change(state))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_checkpoint_of_another_variant_is_refused_with_what_it_may_be(
    slow: Any, state: State, hand_set: State
) -> None:
    for given, variant in (
        (state, "patchnetg"),
        (slow.grouped(state), "patchnet"),
        (state, "patchaggregate"),
        (hand_set, "patchnet"),
        (hand_set, "patchnetg"),
    ):
        with pytest.raises(CheckpointError, match=r"(?s)of patch.*hint:"):
            from_reference(given, variant=variant)


def test_a_tap_where_none_belongs_is_refused_in_every_variant(slow: Any, state: State, hand_set: State) -> None:
    for given, name, variant in (
        (slow.grouped(state), "conv2.weight", "patchnetg"),
        (hand_set, "w2", "patchaggregate"),
    ):
        with pytest.raises(CheckpointError, match=f"`{name}` has taps"):
            from_reference(with_tap(name, 5, 1, 1, 3)(given), variant=variant)  # type: ignore[arg-type]


def test_an_unknown_variant_is_refused_with_the_known_ones(state: State) -> None:
    for bad in ("siamfc", None, 3, ["patchnet"]):
        with pytest.raises(InputError, match="patchnet, patchnetg, patchaggregate; got"):
            from_reference(state, variant=bad)  # type: ignore[arg-type]


def test_the_hand_set_network_has_no_other_form(hand_set: State) -> None:
    assert from_reference(hand_set, variant="patchaggregate", zero_mean=True).zero_mean
    with pytest.raises(InputError, match="zero-mean templates: leave `zero_mean` out"):
        from_reference(hand_set, variant="patchaggregate", zero_mean=False)
