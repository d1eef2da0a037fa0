"""The SPADE generator: its normalisation by hand, its sizes, what it keeps and refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

from effvision.errors import DTypeError, InputError, ShapeError  # noqa: E402
from effvision.models.sige.network import SpadeBlock, SpadeGenerator, SpadeNorm  # noqa: E402


def seeded(network: torch.nn.Module) -> torch.nn.Module:
    """Random weights, statistics that do something, eval mode, float64."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(generator=generator)
            if value.ndim > 1:
                value.mul_((1.5 / value[0].numel()) ** 0.5)
    return network.double().eval()


def one_hot(classes: int, rows: int, columns: int, pictures: int = 1) -> torch.Tensor:
    made = torch.randint(classes, (pictures, rows, columns), generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.one_hot(made, classes).permute(0, 3, 1, 2).double()


def convolved_by_hand(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(C, H, W) and (D, C, k, k), zeros outside, pixel by pixel."""
    reach = weight.shape[2] // 2
    out = np.zeros((len(weight), *x.shape[1:]))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            total = bias.copy()
            for a in range(-reach, reach + 1):
                for b in range(-reach, reach + 1):
                    if 0 <= row + a < x.shape[1] and 0 <= column + b < x.shape[2]:
                        total = total + weight[:, :, a + reach, b + reach] @ x[:, row + a, column + b]
            out[:, row, column] = total
    return out


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("kernel", [3, 5])
@torch.inference_mode()
def test_spade_scales_and_shifts_each_pixel_as_the_paper_says(norm: str, kernel: int) -> None:
    layer = seeded(SpadeNorm(3, 4, norm=norm, kernel=kernel))
    x, hidden = (torch.randn(1, c, 5, 7, generator=torch.Generator().manual_seed(c)).double() for c in (3, 4))
    weight, bias = (value.numpy() for value in (layer.mlp_gamma_beta.weight, layer.mlp_gamma_beta.bias))
    gamma = convolved_by_hand(hidden[0].numpy(), weight[:3], bias[:3])
    beta = convolved_by_hand(hidden[0].numpy(), weight[3:], bias[3:])
    wanted = np.zeros((3, 5, 7))
    for channel, plane in enumerate(x[0].numpy()):
        mean, variance = plane.mean(), plane.var()
        if norm == "batch":
            mean = float(layer.param_free_norm.running_mean[channel])
            variance = float(layer.param_free_norm.running_var[channel])
        wanted[channel] = (1 + gamma[channel]) * (plane - mean) / np.sqrt(variance + 1e-5) + beta[channel]
    np.testing.assert_allclose(layer(x, hidden)[0].numpy(), wanted, rtol=0, atol=1e-12)


@torch.inference_mode()
def test_a_block_reads_the_nearest_label_and_gives_each_norm_its_own_part() -> None:
    block = seeded(SpadeBlock(4, 2, labels=3, hidden=2))
    x, labels = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(2)).double(), one_hot(3, 7, 11)
    nearest = np.zeros((3, 3, 5))
    for row in range(3):
        for column in range(5):
            nearest[:, row, column] = labels[0, :, row * 7 // 3, column * 11 // 5].numpy()

    def conv(layer: torch.nn.Conv2d, given: np.ndarray) -> np.ndarray:
        bias = np.zeros(len(layer.weight)) if layer.bias is None else layer.bias.numpy()
        return convolved_by_hand(given, layer.weight.numpy(), bias)

    def spade(layer: SpadeNorm, given: np.ndarray, part: np.ndarray) -> np.ndarray:
        return layer(torch.from_numpy(given)[None], torch.from_numpy(part)[None])[0].numpy()  # type: ignore[no-any-return]

    def leaky(given: np.ndarray) -> np.ndarray:
        return np.where(given > 0, given, 0.2 * given)

    hidden = np.maximum(conv(block.mlp_shared[0], nearest), 0)
    first = conv(block.conv_0, leaky(spade(block.norm_0, x[0].numpy(), hidden[:2])))
    second = conv(block.conv_1, leaky(spade(block.norm_1, first, hidden[2:4])))
    shortcut = conv(block.conv_s, spade(block.norm_s, x[0].numpy(), hidden[4:]))
    np.testing.assert_allclose(block(x, labels)[0].numpy(), shortcut + second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("upsampling", ["normal", "more", "most"])
@pytest.mark.parametrize("size", [(128, 256), (200, 73), (129, 130)])
@torch.inference_mode()
def test_pictures_have_the_size_of_their_labels(norm: str, upsampling: str, size: tuple[int, int]) -> None:
    network = seeded(SpadeGenerator(3, width=2, norm=norm, upsampling=upsampling))
    picture = network(one_hot(3, *size, pictures=2))
    assert picture.shape == (2, 3, *size)
    assert picture.abs().max() <= 1 and picture.std() > 1e-3
    assert not torch.equal(picture[0], picture[1])


@torch.inference_mode()
def test_maps_double_from_a_64th_of_the_picture_and_only_where_told() -> None:
    sizes = {}
    for upsampling in ("normal", "more", "most"):
        network = seeded(SpadeGenerator(3, width=2, upsampling=upsampling))
        seen: list[tuple[int, int]] = []
        blocks = [block for block in network.children() if isinstance(block, SpadeBlock)]
        for block in blocks:
            block.register_forward_hook(lambda _, given, __, seen=seen: seen.append(tuple(given[0].shape[2:])))
        network(one_hot(3, 128, 256))
        sizes[upsampling] = seen
    assert sizes["more"] == [(2 * 2**n, 4 * 2**n) for n in range(7)]
    assert sizes["normal"] == [(4, 8), (8, 16)] + [(8 * 2**n, 16 * 2**n) for n in range(5)]
    assert sizes["most"] == [(2**n, 2 * 2**n) for n in range(8)]


@torch.inference_mode()
def test_every_label_channel_counts_that_of_instance_edges_too() -> None:
    network, labels = seeded(SpadeGenerator(4, width=2)), one_hot(4, 64, 64)
    before = network(labels)
    for channel in range(4):
        changed = labels.clone()
        changed[:, channel, 20:40, 20:40] += 1
        assert not torch.equal(network(changed), before), channel


@torch.inference_mode()
def test_a_network_that_starts_from_noise_draws_its_mean_unless_given_some() -> None:
    network = seeded(SpadeGenerator(3, width=2, noise=5, first_size=(1, 2), upsampling="more"))
    labels = one_hot(3, 64, 128)
    assert torch.equal(network(labels), network(labels, torch.zeros(1, 5).double()))
    assert not torch.equal(network(labels), network(labels, torch.ones(1, 5).double()))
    with pytest.raises(ShapeError, match=r"built for a first map of \(1, 2\)[\s\S]*\nhint: labels 64 times"):
        network(one_hot(3, 128, 64))
    with pytest.raises(ShapeError, match=r"`noise` must be \(1, 5\); got \(2, 5\)"):
        network(labels, torch.zeros(2, 5).double())


def test_gaugan_does_the_multiply_adds_of_the_paper() -> None:
    """281.3 billion at 256x512, counted without computing anything."""
    from _machine import count_multiply_adds

    with torch.device("meta"):
        network, labels = SpadeGenerator(36, width=64).eval(), torch.zeros(1, 36, 256, 512)
    assert count_multiply_adds(network, lambda: network(labels)) == pytest.approx(281.3e9, abs=0.05e9)


def test_what_is_no_label_map_is_refused_and_says_what_is() -> None:
    network = seeded(SpadeGenerator(3, width=2, norm="instance"))
    for wrong in (torch.zeros(1, 4, 64, 64), torch.zeros(3, 64, 64), torch.zeros(1, 3, 0, 64)):
        with pytest.raises(ShapeError, match=r"must be \(N, 3, H, W\)[\s\S]*\nhint: "):
            network(wrong.double())
    with pytest.raises(DTypeError, match=r"torch\.float32 and the network torch\.float64\nhint: "):
        network(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ShapeError, match=r"first map of one pixel[\s\S]*more than 64 pixels a side"):
        network(one_hot(3, 64, 64))
    with pytest.raises(InputError, match=r"takes no noise\nhint: "):
        network(one_hot(3, 128, 64), torch.zeros(1, 5).double())


@pytest.mark.parametrize(
    "given",
    [
        {"labels": 0},
        {"width": 0},
        {"hidden": 0},
        {"kernel": 2},
        {"norm": "layer"},
        {"upsampling": "least"},
        {"width": 1, "upsampling": "most"},
        {"noise": 0, "first_size": (1, 1)},
        {"noise": 8},
        {"noise": 8, "first_size": (0, 1)},
    ],
)
def test_a_size_or_name_that_is_none_is_refused_with_a_hint(given: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"\nhint: "):
        SpadeGenerator(**{"labels": 3, **given})
