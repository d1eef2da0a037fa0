"""Published SPADE checkpoints in: both layouts, spectral norms by PyTorch's own, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils import parametrizations, spectral_norm  # noqa: E402

from effvision.errors import CheckpointError, InputError  # noqa: E402
from effvision.models.sige.convert import from_reference, fuse_spectral_norm, join_spade  # noqa: E402

WIDTH, LABELS, HIDDEN = 2, 5, 6
BLOCKS = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3")


def authors_norm(channels: int, norm: str, kernel: int) -> nn.Module:
    made = nn.Module()
    made.param_free_norm = (nn.BatchNorm2d if norm == "batch" else nn.InstanceNorm2d)(channels, affine=False)
    made.mlp_shared = nn.Sequential(nn.Conv2d(LABELS, HIDDEN, kernel, padding=kernel // 2), nn.ReLU())
    made.mlp_gamma = nn.Conv2d(HIDDEN, channels, kernel, padding=kernel // 2)
    made.mlp_beta = nn.Conv2d(HIDDEN, channels, kernel, padding=kernel // 2)
    return made


class Authors(nn.Module):
    """The generator with its authors' keys: each norm's convolutions for itself, a spectral norm on the block's own."""

    def __init__(
        self, *, norm: str = "batch", kernel: int = 3, spectral: bool = True, noise: int | None = None
    ) -> None:
        super().__init__()
        under = spectral_norm if spectral else lambda layer: layer
        channels = [WIDTH * count for count in (16, 16, 16, 16, 8, 4, 2, 1)]
        self.fc = nn.Conv2d(LABELS, channels[0], 3, padding=1) if noise is None else nn.Linear(noise, channels[0] * 2)
        for name, (a, b) in zip(BLOCKS, pairwise(channels), strict=True):
            block = nn.Module()
            block.conv_0 = under(nn.Conv2d(a, min(a, b), 3, padding=1))
            block.conv_1 = under(nn.Conv2d(min(a, b), b, 3, padding=1))
            block.norm_0, block.norm_1 = authors_norm(a, norm, kernel), authors_norm(min(a, b), norm, kernel)
            if a != b:
                block.conv_s, block.norm_s = under(nn.Conv2d(a, b, 1, bias=False)), authors_norm(a, norm, kernel)
            self.add_module(name, block)
        self.conv_img = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, labels: Tensor, noise: Tensor | None = None) -> Tensor:
        def spade(layer: nn.Module, x: Tensor) -> Tensor:
            hidden = layer.mlp_shared(F.interpolate(labels, size=x.shape[2:]))
            return layer.param_free_norm(x) * (1 + layer.mlp_gamma(hidden)) + layer.mlp_beta(hidden)

        if noise is None:
            x = self.fc(F.interpolate(labels, size=(labels.shape[2] // 64, labels.shape[3] // 64)))
        else:
            x = self.fc(noise).view(len(noise), -1, labels.shape[2] // 64, labels.shape[3] // 64)
        for number, name in enumerate(BLOCKS):
            block = getattr(self, name)
            x = F.interpolate(x, scale_factor=2) if number else x
            y = block.conv_0(F.leaky_relu(spade(block.norm_0, x), 0.2))
            y = block.conv_1(F.leaky_relu(spade(block.norm_1, y), 0.2))
            x = y + (block.conv_s(spade(block.norm_s, x)) if hasattr(block, "conv_s") else x)
        return torch.tanh(self.conv_img(F.leaky_relu(x, 0.2)))


def trained(**given: object) -> Authors:
    """With statistics and singular vectors that a few steps in training mode have moved."""
    torch.manual_seed(0)
    made = Authors(**given)  # type: ignore[arg-type]
    rest = () if isinstance(made.fc, nn.Conv2d) else (torch.randn(2, made.fc.in_features),)
    with torch.no_grad():
        for _ in range(3):
            made(torch.rand(2, LABELS, 64, 128), *rest)
    return made.eval()


def labels() -> Tensor:
    picked = torch.randint(LABELS, (1, 64, 128), generator=torch.Generator().manual_seed(3))
    return F.one_hot(picked, LABELS).permute(0, 3, 1, 2).float()


@pytest.fixture(scope="module")
def authors() -> Authors:
    return trained()


@pytest.mark.parametrize(
    "given", [{}, {"norm": "instance"}, {"kernel": 5, "norm": "instance"}, {"spectral": False}], ids=str
)
@torch.inference_mode()
def test_a_checkpoint_of_spade_s_authors_gives_their_pictures(given: dict[str, object]) -> None:
    made = trained(**given)
    wanted = made(labels())
    assert wanted.std() > 1e-3
    net = from_reference(made.state_dict(), network="spade")
    assert not net.training and net.width == WIDTH and net.norm == given.get("norm", "batch")
    torch.testing.assert_close(net(labels()), wanted, rtol=0, atol=1e-5)
    assert not any("orig" in key or key.endswith(("_u", "_v")) for key in net.state_dict())


@torch.inference_mode()
def test_joined_convolutions_and_prefixes_and_nesting_change_nothing(authors: Authors) -> None:
    wanted = from_reference(authors.state_dict())(labels())
    joined = join_spade(fuse_spectral_norm(authors.state_dict()))
    assert not any(".mlp_gamma." in key or ".norm_0.mlp_shared." in key for key in joined)
    assert torch.equal(from_reference(joined)(labels()), wanted)
    wrapped = {"state_dict": {f"module.netG.{key}": value.numpy() for key, value in authors.state_dict().items()}}
    assert torch.equal(from_reference(wrapped, width=WIDTH)(labels()), wanted)
    assert torch.equal(join_spade(joined)["up_0.mlp_shared.0.weight"], joined["up_0.mlp_shared.0.weight"])


@torch.inference_mode()
def test_half_precision_is_read_as_float32(authors: Authors) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in authors.state_dict().items()}
    picture = from_reference(half)(labels())
    assert picture.dtype == torch.float32
    torch.testing.assert_close(picture, authors(labels()), rtol=0, atol=0.05)


@torch.inference_mode()
def test_a_generator_that_starts_from_noise_is_read_with_the_size_it_was_built_for() -> None:
    made = trained(noise=7)
    noise = torch.randn(1, 7, generator=torch.Generator().manual_seed(4))
    net = from_reference(made.state_dict(), first_size=(1, 2))
    torch.testing.assert_close(net(labels(), noise), made(labels(), noise), rtol=0, atol=1e-5)
    with pytest.raises(CheckpointError, match=r"first map of 2 pixels[\s\S]*\nhint: give `first_size`"):
        from_reference(made.state_dict())  # 2 pixels make no square


@torch.inference_mode()
def test_most_is_told_by_its_last_block_and_the_others_by_who_asks(authors: Authors) -> None:
    state = join_spade(fuse_spectral_norm(authors.state_dict()))
    normal, more = (from_reference(state, upsampling=name)(labels()) for name in ("normal", "more"))
    assert normal.shape == more.shape and not torch.equal(normal, more)
    with pytest.raises(CheckpointError, match=r"has no block `up_4`; given was upsampling='most'\nhint: "):
        from_reference(state, upsampling="most")
    from effvision.models.sige.network import SpadeGenerator

    most = SpadeGenerator(LABELS, width=4, upsampling="most").eval()
    found = from_reference(most.state_dict())
    assert found.upsampling == "most" and found.width == 4
    assert torch.equal(found(labels()), most(labels()))


# --- spectral norms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Conv2d(5, 4, 3), nn.Conv2d(4, 6, 1, bias=False), nn.Linear(7, 3)], ids=repr)
def test_spectral_norms_are_divided_out_as_pytorch_does(layer: nn.Module) -> None:
    under = spectral_norm(layer)
    with torch.no_grad():
        under.weight_orig.mul_(3)
        under.train()(torch.rand((2, 7) if isinstance(layer, nn.Linear) else (2, layer.in_channels, 5, 5)))
        under.eval()(torch.rand((2, 7) if isinstance(layer, nn.Linear) else (2, layer.in_channels, 5, 5)))
    state = {f"a.{key}": value for key, value in under.state_dict().items()}
    fused = fuse_spectral_norm(state)
    assert set(fused) == {key for key in ("a.weight", "a.bias") if key == "a.weight" or "a.bias" in state}
    torch.testing.assert_close(fused["a.weight"], under.weight.detach(), rtol=1e-6, atol=1e-7)


@torch.inference_mode()
def test_both_other_forms_that_pytorch_wrote_are_read_too(authors: Authors) -> None:
    wanted, state = from_reference(authors.state_dict())(labels()), authors.state_dict()
    newer, oldest = dict(state), dict(state)
    for key in [key for key in state if key.endswith("weight_orig")]:
        name = key.removesuffix(".weight_orig")
        for old, new in (("_orig", "original"), ("_u", "0._u"), ("_v", "0._v")):
            newer[f"{name}.parametrizations.weight.{new}"] = newer.pop(f"{name}.weight{old}")
        del oldest[f"{name}.weight_v"]
        oldest[f"{name}.weight"] = fuse_spectral_norm(state)[f"{name}.weight"]
    written = parametrizations.spectral_norm(nn.Conv2d(3, 3, 3)).state_dict()
    assert {key for key in written if key != "bias"} == {
        key.removeprefix("up_0.conv_0.") for key in newer if key.startswith("up_0.conv_0.parametrizations.")
    }
    assert torch.equal(from_reference(newer)(labels()), wanted)
    assert torch.equal(from_reference(oldest)(labels()), wanted)


def test_a_spectral_norm_without_its_vectors_is_refused() -> None:
    state = spectral_norm(nn.Conv2d(5, 4, 3)).state_dict()
    state = {f"a.{key}": value for key, value in state.items()}
    for end in ("u", "v"):
        with pytest.raises(CheckpointError, match=rf"`a.weight_{end}` is missing\nhint: "):
            fuse_spectral_norm({key: value for key, value in state.items() if key != f"a.weight_{end}"})
    with pytest.raises(CheckpointError, match=r"needs vectors of 4 and 45; got \(4,\) and \(44,\)\nhint: "):
        fuse_spectral_norm({**state, "a.weight_v": torch.zeros(44)})
    with pytest.raises(CheckpointError, match=r"norm of `a.weight_orig` is 0[\s\S]*\nhint: "):
        fuse_spectral_norm({**state, "a.weight_orig": torch.zeros(4, 5, 3, 3)})


# --- what is refused --------------------------------------------------------------------------------------------------


def test_another_width_is_refused_and_the_checkpoint_s_is_named(authors: Authors) -> None:
    with pytest.raises(CheckpointError, match=r"has width 2; given was width=64\nhint: "):
        from_reference(authors.state_dict(), width=64)
    state = {**authors.state_dict(), "up_3.conv_1.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"`up_3.conv_1.bias` is \(3,\) and should be \(2,\)\nhint: .* width=2"):
        from_reference(state)


def test_missing_unknown_and_damaged_tensors_are_named(authors: Authors) -> None:
    state = authors.state_dict()
    for key, message in (
        ("up_1.conv_0.bias", r"1 missing \(`up_1.conv_0.bias`\)"),
        ("up_1.norm_0.mlp_beta.weight", r"`up_1.norm_0.mlp_beta.weight` is missing beside"),
        ("head_0.norm_0.mlp_shared.0.weight", r"no `head_0.mlp_shared.0.weight` that fits"),
        ("conv_img.weight", r"no `conv_img.weight` that fits"),
    ):
        with pytest.raises(
            CheckpointError, match=rf"{message}[\s\S]*\nhint: (it looks like network='spade', w|as a|the)"
        ):
            from_reference({name: value for name, value in state.items() if name != key})
    with pytest.raises(CheckpointError, match=r"1 unknown \(`surplus`\)[\s\S]*\nhint: "):
        from_reference({**state, "surplus": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="NaN"):
        from_reference({**state, "fc.bias": torch.full((32,), float("nan"))})
    with pytest.raises(CheckpointError, match=r"belong together but are[\s\S]*\nhint: "):
        from_reference({**state, "up_0.norm_0.mlp_beta.weight": torch.zeros(32, 7, 3, 3)})
    with pytest.raises(CheckpointError, match=r"GAN Compression[\s\S]*\nhint: "):
        from_reference({**state, "up_0.norm_0.mlp_gamma.conv.0.weight": torch.zeros(6, 1, 3, 3)})


def test_another_network_is_refused_and_the_likely_one_named(authors: Authors) -> None:
    with pytest.raises(CheckpointError, match=r"not a resnet checkpoint\nhint: it looks like network='spade'"):
        from_reference(authors.state_dict(), network="resnet")
    with pytest.raises(CheckpointError, match=r"not a spade checkpoint\nhint: known are spade, resnet, unet"):
        from_reference({"layer.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"`network` 'gaugan' is unknown\nhint: one of spade, resnet, unet"):
        from_reference(authors.state_dict(), network="gaugan")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"SPADE's; network='unet' has neither\nhint: "):
        from_reference(authors.state_dict(), network="unet", upsampling="more")
    with pytest.raises(InputError, match=r"`upsampling` 'less' is unknown\nhint: "):
        from_reference(authors.state_dict(), upsampling="less")  # type: ignore[arg-type]
