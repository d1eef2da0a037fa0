"""Networks of the user's own: what is said of them, what happens to them, tiny sizes and few channels, whose session it is."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effvision import TSM
from effvision.errors import DTypeError, InputError, StateError
from effvision.models.tsm.assemble import tensors_sha256
from effvision.models.tsm.network import insert_temporal_shift

LABELS = ("a", "b", "c", "d")


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(x))


def plain(channels: int = 8, patch: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    stem = nn.Conv2d(3, channels, patch, patch)
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(stem, Block(channels), Block(channels), nn.Dropout(0.5), *pool, nn.Linear(channels, 4))


def own(size: tuple[int, int] = (16, 16), *, patch: int = 4, seed: int = 0, channels: int = 8, **shift: Any) -> TSM:
    network = insert_temporal_shift(plain(channels, patch, seed), **shift)
    return TSM.from_network(network, labels=LABELS, size=size)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)


# --- the network is used as it is -----------------------------------------------------------------------------------


def test_the_network_is_used_itself_in_eval_mode() -> None:
    network = insert_temporal_shift(plain()).train()
    model = TSM.from_network(network, labels=LABELS, size=(16, 16))
    assert model.runtime.modules["step"].network is network  # type: ignore[attr-defined]
    assert not any(module.training for module in network.modules())
    frame = pictures(1)[0]
    np.testing.assert_array_equal(model.predict(frame).logits, model.predict(frame).logits)  # no dropout


@pytest.mark.parametrize("given", [nn.Linear(2, 2), None, "network", plain()], ids=lambda given: type(given).__name__)
def test_what_is_no_temporal_network_is_refused_with_what_makes_one(given: Any) -> None:
    with pytest.raises(DTypeError, match=rf"{type(given).__name__}\nhint: .*insert_temporal_shift"):
        TSM.from_network(given, labels=LABELS, size=(16, 16))


def test_a_size_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(InputError, match=r"3x16"):
        own((3, 16))


# --- tiny sizes, few channels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "patch", "direction"),
    [
        ((8, 8), 4, "causal"),
        ((8, 8), 4, "bidirectional"),
        ((15, 200), 4, "causal"),  # only one side is short
        ((1, 1), 1, "causal"),
    ],
)
def test_a_network_of_a_tiny_size_exports(tmp_path: Path, size: tuple[int, int], patch: int, direction: Any) -> None:
    model = own(size, patch=patch, direction=direction)
    report = model.export(tmp_path / "tiny.onnx", batch="dynamic")
    name = "step" if direction == "causal" else "clip"
    shapes = [next(iter(x.values())).shape[-2:] for x in model.example_inputs(name, steps=4, batch=2, seed=0)]
    assert shapes == [size] * 4
    frames = pictures(9)
    wanted = model.predict(frames).logits
    np.testing.assert_allclose(TSM.from_pretrained(report).predict(frames).logits, wanted, rtol=0, atol=1e-5)


def test_the_rendered_example_of_a_tiny_size_moves() -> None:
    examples = list(own((8, 8)).example_inputs("step", steps=8, batch=1, seed=0))[4:]
    assert all(np.abs(one["frame"] - other["frame"]).max() > 1 for one, other in pairwise(examples))


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("sites", [None, ["2.conv"]])
def test_a_convolution_with_too_few_channels_to_shift_is_refused_before_anything_is_wrapped(
    direction: Any, sites: list[str] | None
) -> None:
    network = plain(channels=7)
    name = "1.conv" if sites is None else "2.conv"
    with pytest.raises(InputError, match=rf"'{name}' has 7 channels.*fold=8.*\nhint: .*`fold`"):
        insert_temporal_shift(network, direction=direction, sites=sites)
    assert not any(type(module).__name__ == "ShiftSite" for module in network.modules())


def test_a_smaller_fold_makes_few_channels_stream_and_export(tmp_path: Path) -> None:
    model = own(channels=7, fold=7)
    report = model.export(tmp_path / "few.onnx")
    frames = pictures(9)
    wanted = model.predict(frames).logits
    np.testing.assert_allclose(TSM.from_pretrained(report).predict(frames).logits, wanted, rtol=0, atol=1e-5)


def test_a_whole_block_with_too_few_channels_to_shift_is_refused_when_its_size_is_known() -> None:
    network = insert_temporal_shift(plain(channels=4), sites=["1", "2"])
    with pytest.raises(InputError, match=r"2 of the network's 2 shift sites.*\nhint: .*fold"):
        TSM.from_network(network, labels=LABELS, size=(16, 16))


# --- whose session it is ----------------------------------------------------------------------------------------------


def test_the_session_of_another_network_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    one, same, other = own(seed=0), own(seed=0), own(seed=1)
    session = one.session()
    session.update(pictures(1)[0])
    saved = session.save(tmp_path / "s.npz")
    assert same.session(path=saved).update(pictures(1)[0]).index == 1
    with pytest.raises(StateError, match=r"s\.npz was saved by .*weights.*\nhint: "):
        other.session(path=saved)


def test_the_exported_file_of_a_network_goes_on_with_its_session(tmp_path: Path) -> None:
    model = own()
    session = model.session()
    session.update(pictures(1)[0])
    saved = session.save(tmp_path / "s.npz")
    exported = TSM.from_pretrained(model.export(tmp_path / "m.onnx"))
    assert exported.session(path=saved).update(pictures(1)[0]).index == 1


@pytest.mark.parametrize("change", ["value", "name", "type", "shape"])
def test_networks_that_differ_in_anything_have_different_digests(change: str) -> None:
    class Table(nn.Module):
        def __init__(self, **tensors: Tensor) -> None:
            super().__init__()
            for name, tensor in tensors.items():
                self.register_buffer(name, tensor)

    zeros = torch.zeros(2, 3)
    first = tensors_sha256(Table(a=zeros, count=torch.tensor(1)))
    assert first == tensors_sha256(
        Table(count=torch.tensor(1), a=zeros.t().contiguous().t())
    )  # order, layout: no matter
    other = {"value": zeros + 1, "name": zeros, "type": zeros.int(), "shape": zeros.t()}[change]
    assert first != tensors_sha256(Table(**{"b" if change == "name" else "a": other}, count=torch.tensor(1)))


def test_the_digest_takes_half_precision_and_tensors_that_are_none() -> None:
    network = nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.BatchNorm2d(2), nn.Linear(2, 2, bias=False).half())
    assert len(tensors_sha256(network)) == 64


# --- mean and standard deviation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        (0.5, 0.25, 1),
        [0.5, 0.25, 1],
        np.array([0.5, 0.25, 1.0]),
        np.array([0.5, 0.25, 1.0], np.float32),
        [np.float32(0.5), np.float64(0.25), np.int64(1)],
        torch.tensor([0.5, 0.25, 1.0]),
    ],
    ids=lambda values: type(values).__name__,
)
def test_three_real_numbers_of_any_kind_are_a_mean_and_a_deviation(values: Any) -> None:
    network = insert_temporal_shift(plain())
    model = TSM.from_network(network, labels=LABELS, size=(16, 16), mean=values, std=values, fps=np.float32(10))  # type: ignore[arg-type]
    assert model.metadata.preprocess["mean"] == model.metadata.preprocess["std"] == [0.5, 0.25, 1.0]
    stored = json.loads(model.metadata.to_json())  # plain numbers, so that an exported file can hold them
    assert stored["preprocess"]["std"] == [0.5, 0.25, 1.0] and stored["options"]["fps"] == 10.0


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize(
    "bad",
    [
        (0.5, 0.5),
        0.5,
        None,
        "abc",
        ["0.5", "0.5", "0.5"],
        [0.5, None, 0.5],
        [0.5, [0.5], 0.5],
        [1j, 1, 1],
        np.ones((3, 1)),
        [True, True, True],
        [10**400, 1, 1],
        (np.nan, 0.5, 0.5),
        (0.5, np.inf, 0.5),
        np.array([0.5, 0.5, -np.inf], np.float32),
        [np.longdouble("1e4000"), 1, 1],
        pytest.param({0.1, 0.2, 0.3}, id="a set"),  # its order depends on whether this file was compiled or read
    ],
    ids=lambda bad: f"{bad!r:.40}",
)
def test_what_is_not_three_finite_real_numbers_is_refused(name: str, bad: Any) -> None:
    with pytest.raises(InputError, match=f"`{name}` must be three"):
        TSM.from_network(insert_temporal_shift(plain()), labels=LABELS, size=(16, 16), **{name: bad})


@pytest.mark.parametrize("bad", [(0.0, 1, 1), (1, -0.1, 1), np.array([1, 1, 0], np.float32)], ids=repr)
def test_a_deviation_that_is_not_above_zero_is_refused(bad: Any) -> None:
    with pytest.raises(InputError, match=r"`std` must be three .*above 0"):
        TSM.from_network(insert_temporal_shift(plain()), labels=LABELS, size=(16, 16), std=bad)
