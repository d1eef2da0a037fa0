"""`exact` equals the full pass, `frozen` the full pass with the first picture's statistics: any network, any edit."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor, nn

from effvision.incremental import IncrementalNetwork, make_incremental
from painters import RandomNetwork, ResnetGenerator, SpadeGenerator, UnetGenerator, freeze_norms

PLANS = ("auto", "rectangles", "tiles")


def edited(inputs: tuple[Tensor, ...], chance: random.Random) -> tuple[Tensor, ...]:
    """The inputs with some rectangles, points or a border drawn over: of one channel or all, of one picture or all."""
    found = [tensor.clone() for tensor in inputs]
    for _ in range(chance.choice([1, 1, 2, 5])):
        tensor = chance.choice(found)
        n, c, h, w = tensor.shape
        high, wide = chance.choice([(1, 1), (2, 3), (h // 3, w // 4), (h, 1)])
        top, left = chance.choice(
            [(0, 0), (h - high, w - wide), (chance.randint(0, h - high), chance.randint(0, w - wide))]
        )
        pictures, channels = chance.choice([slice(None), n - 1]), chance.choice([slice(None), c - 1])
        tensor[pictures, channels, top : top + high, left : left + wide] += chance.choice([0.7, -3.0])
    return tuple(found)


def far(output: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((output - wanted).abs().max() / wanted.abs().max())


def follow(
    engine: IncrementalNetwork, oracle: nn.Module, inputs: tuple[Tensor, ...], seed: int, edits: int = 4
) -> float:
    """Make edits one after another; return how far the engine was from the oracle at worst."""
    chance = random.Random(seed)
    with torch.no_grad():
        worst = far(engine.update(inputs).output, oracle(*inputs))
        for _ in range(edits):
            inputs = edited(inputs, chance)
            worst = max(worst, far(engine.update(inputs).output, oracle(*inputs)))
    return worst


@pytest.mark.parametrize("seed", range(24))
def test_any_network_is_exact_after_any_edit(seed: int) -> None:
    network = RandomNetwork(seed)
    inputs = network.inputs()
    engine = make_incremental(network, inputs, mode="exact", plan=PLANS[seed % 3])  # type: ignore[arg-type]
    assert follow(engine, network, inputs, seed) < 1e-10


@pytest.mark.parametrize("seed", range(100, 108))
def test_any_network_with_norms_is_exact_after_any_edit(seed: int) -> None:
    network = RandomNetwork(seed, norms=True)
    inputs = network.inputs()
    assert follow(make_incremental(network, inputs, mode="exact"), network, inputs, seed, edits=2) < 1e-10


@pytest.mark.parametrize("seed", range(100, 112))
def test_any_network_equals_itself_with_frozen_statistics(seed: int) -> None:
    network = RandomNetwork(seed, norms=True)
    inputs = network.inputs()
    oracle = freeze_norms(copy.deepcopy(network))
    engine = make_incremental(network, inputs, mode="frozen", plan=PLANS[seed % 3])  # type: ignore[arg-type]
    assert follow(engine, oracle, inputs, seed) < 1e-10


GENERATORS = {
    "resnet": (lambda: ResnetGenerator(4, 2), (3, 48, 44)),
    "unet": (lambda: UnetGenerator(4, 4), (3, 48, 64)),
    "unet with instance norms": (lambda: UnetGenerator(4, 3, nn.InstanceNorm2d), (3, 48, 40)),
    "spade": (lambda: SpadeGenerator(5, 4, 2), (5, 48, 40)),
    "spade with instance norms": (lambda: SpadeGenerator(5, 4, 2, nn.InstanceNorm2d), (5, 48, 40)),
}


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("mode", ["exact", "frozen"])
def test_a_plain_generator_is_followed(name: str, mode: str) -> None:
    torch.manual_seed(1)
    make, shape = GENERATORS[name]
    network = make().double().eval()
    inputs = (torch.randn(1, *shape, dtype=torch.float64),)
    oracle = network if mode == "exact" else freeze_norms(copy.deepcopy(network))
    assert follow(make_incremental(network, inputs, mode=mode), oracle, inputs, 3) < 1e-10  # type: ignore[arg-type]


def test_in_float32_it_is_close() -> None:
    torch.manual_seed(2)
    network = SpadeGenerator(5, 8, 3).eval()
    inputs = (torch.randn(1, 5, 64, 64),)
    assert follow(make_incremental(network, inputs, mode="exact"), network, inputs, 5) < 1e-4


class Attentive(nn.Module):
    """Convolutions around an attention over all pixels, and a gate by global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.gate = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.first(x)
        n, c, h, w = x.shape
        rows = x.flatten(2).transpose(1, 2)
        x = x + self.attend(rows, rows, rows)[0].transpose(1, 2).reshape(n, c, h, w)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return {"picture": self.last(x), "gate": x.amax((2, 3))}


def test_what_has_no_rule_is_dense_exact_and_named() -> None:
    torch.manual_seed(3)
    network = Attentive().double().eval()
    x = torch.randn(1, 3, 16, 20, dtype=torch.float64)
    engine = make_incremental(network, x, mode="exact", plan="rectangles")
    engine.update(x)
    y = x.clone()
    y[:, :, 3:5, 4:6] += 1
    update = engine.update(y)
    with torch.no_grad():
        wanted = network(y)
    for key in ("picture", "gate"):
        assert far(update.output[key], wanted[key]) < 1e-10
    assert "reaches (nearly) all" in update.note and "dense" in update.note
    assert update.how["conv2d"] == "1 rectangle"
    named = engine.report.dense
    rows = {row.name: row.macs for row in engine.report.rows}
    assert rows["linear"] + rows["linear_2"] >= 320 * 8 * 24 + 8 * 8 and rows["conv2d"] == 320 * 8 * 27
    assert {"flatten", "mean", "linear"} <= set(named) and all(named.values())
    assert "conv2d" not in named and "conv2d_1" not in named


def test_constants_that_look_like_pictures_are_cut_with_them() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grid = nn.Parameter(torch.randn(4, 20, 24))
            self.layer = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x * self.grid + torch.linspace(0, 1, 24)) * self.grid[0]

    torch.manual_seed(4)
    network = Positions().double().eval()
    network.forward(torch.zeros(1, 4, 20, 24, dtype=torch.float64))
    inputs = (torch.randn(2, 4, 20, 24, dtype=torch.float64),)
    for plan in PLANS:
        engine = make_incremental(network, inputs, mode="exact", plan=plan)  # type: ignore[arg-type]
        assert follow(engine, network, inputs, 6) < 1e-10


def test_operations_in_place_are_followed_where_nothing_else_sees_them() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            z = torch.relu_(y)
            z += 1
            return y * 2 + self.layer(z)  # y is z

    network = InPlace().double().eval()
    inputs = (torch.randn(1, 3, 20, 24, dtype=torch.float64),)
    assert follow(make_incremental(network, inputs, mode="exact"), network, inputs, 6) < 1e-10
