"""The generators of pix2pix and CycleGAN: published keys, the same function written out, what is refused."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from effvision.errors import CheckpointError, InputError, ShapeError  # noqa: E402
from effvision.models.sige.convert import from_reference  # noqa: E402
from effvision.models.sige.pix2pix import ResNetGenerator, UNetGenerator  # noqa: E402

State = dict[str, Tensor]


class Made:
    """A checkpoint, key by key as published, seeded."""

    def __init__(self, norm: str) -> None:
        self.norm, self.state, self.generator = norm, State(), torch.Generator().manual_seed(0)

    def draw(self, key: str, *shape: int, around: float = 0.0) -> None:
        fan = torch.Size(shape[1:]).numel() if len(shape) > 1 else 20.0
        drawn = torch.randn(shape, generator=self.generator) * (2 / fan) ** 0.5 + around
        self.state[key] = drawn.double()  # float32 numbers, which the network holds as they are

    def conv(self, key: str, *shape: int, bias: int | None = None) -> None:
        """With a bias of its own if no batch norm follows; `bias` channels at the last layer whatever the norm."""
        self.draw(f"{key}.weight", *shape)
        if bias is not None:
            self.draw(f"{key}.bias", bias)

    def norm_at(self, key: str, channels: int) -> None:
        if self.norm == "batch":
            self.draw(f"{key}.weight", channels, around=1.0)
            self.draw(f"{key}.bias", channels)
            self.draw(f"{key}.running_mean", channels)
            self.draw(f"{key}.running_var", channels)
            self.state[f"{key}.running_var"] = self.state[f"{key}.running_var"].abs().float().add(0.5).double()
            self.state[f"{key}.num_batches_tracked"] = torch.tensor(3)

    def bias(self, channels: int) -> int | None:
        return channels if self.norm == "instance" else None


def conv(state: State, key: str, x: Tensor, **given: int) -> Tensor:
    return F.conv2d(x, state[f"{key}.weight"], state.get(f"{key}.bias"), **given)


def up(state: State, key: str, x: Tensor, **given: int) -> Tensor:
    return F.conv_transpose2d(x, state[f"{key}.weight"], state.get(f"{key}.bias"), stride=2, padding=1, **given)


def norm(state: State, key: str, x: Tensor) -> Tensor:
    if f"{key}.weight" not in state:
        return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
    mean, variance, weight, bias = (
        state[f"{key}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def mirrored(x: Tensor, by: int) -> Tensor:
    return F.pad(x, (by, by, by, by), mode="reflect")


def resnet(kind: str, *, blocks: int, dropout: bool, width: int = 4) -> State:
    made = Made(kind)
    made.conv("model.1", width, 2, 7, 7, bias=made.bias(width))
    made.norm_at("model.2", width)
    for at, times in ((4, 2), (7, 4)):
        made.conv(f"model.{at}", times * width, times * width // 2, 3, 3, bias=made.bias(times * width))
        made.norm_at(f"model.{at + 1}", times * width)
    wide = 4 * width
    for at in range(10, 10 + blocks):
        for first in (1, 6 if dropout else 5):
            made.conv(f"model.{at}.conv_block.{first}", wide, wide, 3, 3, bias=made.bias(wide))
            made.norm_at(f"model.{at}.conv_block.{first + 1}", wide)
    for at, times in ((10 + blocks, 2), (13 + blocks, 1)):
        made.conv(f"model.{at}", 2 * times * width, times * width, 3, 3, bias=made.bias(times * width))
        made.norm_at(f"model.{at + 1}", times * width)
    made.conv(f"model.{17 + blocks}", 3, width, 7, 7, bias=3)
    return made.state


def resnet_by_hand(state: State, x: Tensor, *, blocks: int, dropout: bool) -> Tensor:
    x = F.relu(norm(state, "model.2", conv(state, "model.1", mirrored(x, 3))))
    for at in (4, 7):
        x = F.relu(norm(state, f"model.{at + 1}", conv(state, f"model.{at}", x, stride=2, padding=1)))
    for at in range(10, 10 + blocks):
        key, second = f"model.{at}.conv_block", 6 if dropout else 5
        y = F.relu(norm(state, f"{key}.2", conv(state, f"{key}.1", mirrored(x, 1))))
        x = x + norm(state, f"{key}.{second + 1}", conv(state, f"{key}.{second}", mirrored(y, 1)))
    for at in (10 + blocks, 13 + blocks):
        x = F.relu(norm(state, f"model.{at + 1}", up(state, f"model.{at}", x, output_padding=1)))
    return torch.tanh(conv(state, f"model.{17 + blocks}", mirrored(x, 3)))


def unet(kind: str, *, levels: int, width: int = 2) -> State:
    made = Made(kind)
    inner = [min(2**level, 8) * width for level in range(levels)]
    key = "model.model"
    for level, channels in enumerate(inner):
        outer = 3 if level == 0 else inner[level - 1]
        outermost, innermost = level == 0, level == levels - 1
        at_down, at_up = 0 if outermost else 1, 3 if outermost or innermost else 5
        given = 2 if outermost else outer
        made.conv(f"{key}.{at_down}", channels, given, 4, 4, bias=made.bias(channels))
        joined = channels if innermost else 2 * channels
        made.conv(f"{key}.{at_up}", joined, outer, 4, 4, bias=outer if outermost else made.bias(outer))
        if not outermost:
            made.norm_at(f"{key}.{at_up + 1}", outer)
        if not (outermost or innermost):
            made.norm_at(f"{key}.2", channels)
        key += ".1.model" if outermost else ".3.model"
    return made.state


def unet_by_hand(state: State, x: Tensor, *, levels: int, key: str = "model.model", level: int = 0) -> Tensor:
    """As published: activations work in place, so what is joined is the rectified map."""
    if level == 0:
        below = unet_by_hand(
            state, conv(state, f"{key}.0", x, stride=2, padding=1), levels=levels, key=f"{key}.1.model", level=1
        )
        return torch.tanh(up(state, f"{key}.3", F.relu(below)))
    x = F.leaky_relu(x, 0.2)
    y = conv(state, f"{key}.1", x, stride=2, padding=1)
    at = 3
    if level < levels - 1:
        y, at = norm(state, f"{key}.2", y), 5
        y = unet_by_hand(state, y, levels=levels, key=f"{key}.3.model", level=level + 1)
    return torch.cat([x, norm(state, f"{key}.{at + 1}", up(state, f"{key}.{at}", F.relu(y)))], 1)


def picture(rows: int, columns: int) -> Tensor:
    return torch.randn(2, 2, rows, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["instance", "batch"])
@pytest.mark.parametrize(("blocks", "dropout"), [(6, True), (9, False)])
@torch.inference_mode()
def test_a_published_resnet_has_these_keys_and_gives_these_pictures(kind: str, blocks: int, dropout: bool) -> None:
    state = resnet(kind, blocks=blocks, dropout=dropout)
    net = from_reference(state, network="resnet", width=4)
    assert isinstance(net, ResNetGenerator) and net.blocks == blocks and not net.training
    assert set(net.state_dict()) == set(state)
    for size in ((16, 24), (20, 12)):
        wanted = resnet_by_hand(state, picture(*size), blocks=blocks, dropout=dropout)
        assert wanted.shape == (2, 3, *size) and wanted.std() > 1e-3
        torch.testing.assert_close(net.double()(picture(*size)), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["instance", "batch"])
@pytest.mark.parametrize("levels", [7, 8])
@torch.inference_mode()
def test_a_published_unet_has_these_keys_and_gives_these_pictures(kind: str, levels: int) -> None:
    state = unet(kind, levels=levels)
    net = from_reference(state, network="unet")
    assert isinstance(net, UNetGenerator) and net.levels == levels and net.width == 2
    assert set(net.state_dict()) == set(state)
    x = picture(2**levels, 2 * 2**levels)
    wanted = unet_by_hand(state, x, levels=levels)
    assert wanted.shape == (2, 3, *x.shape[2:]) and wanted.std() > 1e-3
    torch.testing.assert_close(net.double()(x), wanted, rtol=0, atol=1e-9)


def test_a_unet_s_dropout_leaves_keys_and_answers_as_they_are() -> None:
    plain, dropping = (UNetGenerator(2, 3, width=1, levels=6, dropout=dropout).eval() for dropout in (False, True))
    dropping.load_state_dict(plain.state_dict())
    x = picture(64, 64).float()
    with torch.inference_mode():
        assert torch.equal(plain(x), dropping(x))


@torch.inference_mode()
def test_statistics_that_old_instance_norms_tracked_are_left_out_as_their_authors_do() -> None:
    state = resnet("instance", blocks=6, dropout=False)
    tracked = {f"model.2.{name}": torch.full((4,), 7.0) for name in ("running_mean", "running_var")}
    tracked["model.2.num_batches_tracked"] = torch.tensor(9)
    wanted = from_reference(state, network="resnet")(picture(16, 16).float())
    assert torch.equal(from_reference({**state, **tracked}, network="resnet")(picture(16, 16).float()), wanted)


@torch.inference_mode()
def test_a_resnet_rounds_odd_sizes_up_to_multiples_of_four() -> None:
    net = ResNetGenerator(2, 3, width=2, blocks=1).eval()
    assert net(picture(17, 23).float()).shape == (2, 3, 20, 24)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"multiples of 256; got \(2, 2, 256, 100\)\nhint: "):
        UNetGenerator(2, width=1).eval()(picture(256, 100).float())
    with pytest.raises(ShapeError, match=r"at least 5 pixels a side; got \(2, 2, 4, 8\)\nhint: "):
        ResNetGenerator(2, width=1, blocks=1).eval()(picture(4, 8).float())
    for wrong in ({"width": 0}, {"norm": "layer"}, {"levels": 4}):
        with pytest.raises(InputError, match=r"\nhint: "):
            UNetGenerator(**wrong)  # type: ignore[arg-type]


def test_checkpoints_of_another_network_or_incomplete_ones_are_refused() -> None:
    state = resnet("batch", blocks=6, dropout=False)
    with pytest.raises(CheckpointError, match=r"not a unet checkpoint\nhint: it looks like network='resnet'"):
        from_reference(state, network="unet")
    with pytest.raises(CheckpointError, match=r"not a spade checkpoint\nhint: it looks like network='resnet'"):
        from_reference(state)
    with pytest.raises(CheckpointError, match=r"has width 4; given was width=64\nhint: "):
        from_reference(state, network="resnet", width=64)
    with pytest.raises(CheckpointError, match=r"1 missing \(`model.2.bias`\)[\s\S]*width=4"):
        from_reference({key: value for key, value in state.items() if key != "model.2.bias"}, network="resnet")
    cut = {key: value for key, value in unet("batch", levels=7).items() if key.count(".3.") < 2}
    with pytest.raises(CheckpointError, match=r"not a unet checkpoint\nhint: .*with something missing"):
        from_reference(cut, network="unet")
