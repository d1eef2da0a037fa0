"""The published engine's masks, blocks and results, against vectors that it made itself (golden)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvision.errors import ShapeError
from effvision.incremental import ReferenceOptions, make_incremental
from effvision.incremental import reference as sige

KINDS = ("empty", "full", "point", "rect", "topleft", "bottomright", "border", "two", "random")


class Golden:
    """The folder of vectors and the recipe of their inputs."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("sige_recipe", folder / "recipe.py")
        assert spec and spec.loader
        self.recipe: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.recipe)
        described = json.loads((folder / "keys.json").read_text("utf-8"))
        self.keys, self.meta = described["keys"], described["meta"]
        self.files = {name: np.load(folder / f"{name}.npz", allow_pickle=False) for name in ("masks", "ops", "blocks")}

    def weights(self, case: str) -> dict[str, Tensor]:
        found = self.keys[case]
        return {key: torch.from_numpy(self.recipe.weight(f"{case}/{key}", shape)) for key, shape in found.items()}

    def array(self, name: str, *shape: int) -> Tensor:
        return torch.from_numpy(self.recipe.array(name, shape))


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "golden" / "sige")


def parts(files: Any, first: str) -> list[tuple[list[str], Any]]:
    """The entries of a file whose name begins so, with what follows cut at the bars."""
    return [(key.split("|")[1:], files[key]) for key in files.files if key.split("|")[0] == first]


def test_dilation_is_golden(golden: Golden) -> None:
    found = parts(golden.files["masks"], "dilate")
    assert found
    for (kind, _, by), wanted in found:
        amounts = [int(n) for n in by.split(",")]
        grown = sige.dilate(golden.recipe.mask(kind, 20, 26), amounts[0] if len(amounts) == 1 else tuple(amounts))
        assert np.array_equal(grown, wanted), (kind, by)


def test_active_blocks_are_golden(golden: Golden) -> None:
    found = parts(golden.files["masks"], "reduce")
    assert found
    for (kind, _, geometry), wanted in found:
        size, rest = geometry[1:].split("s")
        step, offset = rest.split("p")
        shape = sige.BlockShape(*((int(n), int(n)) for n in (size, step, offset)))
        indices = sige.active_indices(golden.recipe.mask(kind, 20, 26), shape)
        assert indices.dtype == np.int32 and np.array_equal(indices, wanted), (kind, geometry)


def test_the_pyramid_is_golden_but_for_the_empty_mask(golden: Golden) -> None:
    found = parts(golden.files["masks"], "down")
    assert found
    for (kind, size, least, dilation, level), wanted in found:
        h, w = map(int, size.split("x"))
        smallest = [int(n) for n in least.removeprefix("min").split(",")]
        pyramid = sige.mask_pyramid(
            golden.recipe.mask(kind, h, w),
            least=(smallest[0], smallest[-1]),
            dilation=int(dilation.removeprefix("dil")),
        )
        mask = pyramid[tuple(map(int, level.split("x")))]  # type: ignore[index]
        if kind == "empty":
            assert wanted.all() and not mask.any()  # theirs marks everything: the fault we do not share
        else:
            assert np.array_equal(mask, wanted), (kind, size, level)


def test_the_pyramid_ends_where_the_golden_one_does(golden: Golden) -> None:
    names = [key.split("|") for key in golden.files["masks"].files if key.startswith("down|rect|30x44|")]
    assert {tuple(map(int, name[-1].split("x"))) for name in names} == set(
        sige.mask_pyramid(golden.recipe.mask("rect", 30, 44), dilation=0)
    )


def test_the_difference_is_golden(golden: Golden) -> None:
    before = golden.array("input:diff:a", 1, 3, 12, 14)
    after = before.clone()
    after[0, 1, 3:5, 6:9] += 0.021
    after[0, 2, 10, 1] += 0.0195
    after[0, 0, 0, 0] -= 0.5
    for epsilon in (0.02, 0.001):
        mask = sige.difference_mask(before, after, epsilon)
        assert np.array_equal(mask, golden.files["masks"][f"diff|eps{epsilon}"])
    with pytest.raises(ShapeError, match="hint:"):
        sige.difference_mask(before, after[:, :, 1:])


@pytest.mark.parametrize("case", ["k3s1", "k3s1b9", "k1s1", "k3s2", "k3s2odd", "k5s1", "k4s2"])
def test_one_convolution_on_blocks_is_golden(golden: Golden, case: str) -> None:
    files, meta, weights = golden.files["ops"], golden.meta[f"conv_{case}"], golden.weights(f"conv_{case}")
    shape = (1, meta["cin"], meta["h"], meta["w"])
    original = golden.array(f"input:conv_{case}:original", *shape)
    delta = golden.array(f"input:conv_{case}:delta", *shape)
    kernel, stride, padding = [meta["kernel"]] * 2, [meta["stride"]] * 2, [meta["padding"]] * 2
    blocks = sige.block_shape(meta["block_asked"], kernel, stride, padding)
    assert [list(side) for side in (blocks.size, blocks.step, blocks.offset)] == [
        meta["block"],
        meta["block_stride"],
        meta["offset"],
    ]
    convolve = {"weight": weights["conv.weight"], "bias": weights["conv.bias"], "stride": stride}
    cached = F.conv2d(original, **convolve, padding=padding)  # type: ignore[arg-type]
    for kind in KINDS:
        mask = golden.recipe.mask(kind, meta["h"], meta["w"])
        indices = sige.active_indices(mask, blocks)
        assert np.array_equal(indices, files[f"{case}|{kind}|indices"])
        x = original + delta * torch.from_numpy(mask)
        gathered = sige.gather(x, indices, blocks.size)
        result = F.conv2d(gathered, **convolve)  # type: ignore[arg-type]
        scattered = sige.scatter(result, cached, indices, blocks, stride)
        if f"{case}|{kind}|gathered" in files:
            assert np.array_equal(gathered, files[f"{case}|{kind}|gathered"])
            assert np.allclose(result, files[f"{case}|{kind}|conv"], atol=1e-5)
        assert np.allclose(scattered, files[f"{case}|{kind}|scattered"], atol=1e-5)
        assert (scattered - F.conv2d(x, **convolve, padding=padding)).abs().max() < 1e-5  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["identity", "swish"])
def test_two_convolutions_and_a_shortcut_are_golden(golden: Golden, name: str) -> None:
    files, weights = golden.files["ops"], golden.weights(f"two_{name}")
    act = F.silu if name == "swish" else None
    scale1, shift1, scale2, shift2 = (
        golden.array(f"input:two:{key}", 1, channels, 1, 1)
        for key, channels in (("scale1", 3), ("shift1", 3), ("scale2", 4), ("shift2", 4))
    )
    main, short = sige.BlockShape((6, 6), (4, 4), (1, 1)), sige.BlockShape((4, 4), (4, 4), (0, 0))
    cases = {key.rsplit("|", 1)[0] for key in files.files if key.startswith(f"two_{name}|")}
    assert cases
    for case in sorted(cases):
        _, batch, kind = case.split("|")
        original, delta = (
            golden.array(f"input:two:{key}:{batch}", int(batch[1:]), 3, 20, 26) for key in ("original", "delta")
        )
        mask = golden.recipe.mask(kind, 20, 26)
        x = original + delta * torch.from_numpy(mask)
        normed, activated = original * scale1 + shift1, act or (lambda value: value)
        first = F.conv2d(activated(normed), weights["c1.weight"], weights["c1.bias"], padding=1)
        second = F.conv2d(activated(first * scale2 + shift2), weights["c2.weight"], weights["c2.bias"], padding=1)
        direct = F.conv2d(original, weights["sc.weight"], weights["sc.bias"])
        indices, points = sige.active_indices(mask, main), sige.active_indices(mask, short)
        gathered = sige.gather(x, indices, main.size, scale=scale1, shift=shift1, activation=act)
        middle = F.conv2d(gathered, weights["c1.weight"], weights["c1.bias"])
        again = sige.scatter_gather(middle, first, indices, main, scale=scale2, shift=shift2, activation=act)
        last = F.conv2d(again, weights["c2.weight"], weights["c2.bias"])
        residual = F.conv2d(sige.gather(x, points, short.size), weights["sc.weight"], weights["sc.bias"])
        out = sige.scatter_with_block_residual(last, second, indices, main, residual, direct, points, short)
        assert np.allclose(out, files[f"{case}|out"], atol=2e-5), case
        for key, value in (("gather", gathered), ("scatter_gather", again)):
            if f"{case}|{key}" in files:
                assert np.allclose(value, files[f"{case}|{key}"], atol=1e-5), (case, key)
        if f"{case}|map" in files:
            found = sige.scatter_map(indices, main, 4, 4, 20, 26)
            assert np.array_equal(found, files[f"{case}|map"])


def named(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: weights[f"{prefix}.{key}"] for key in ("weight", "bias") if f"{prefix}.{key}" in weights}


class SpadeBlock(nn.Module):
    """One block as published: all hidden maps from one convolution of the labels, gamma and beta from one each."""

    def __init__(self, weights: dict[str, Tensor], hidden: int) -> None:
        super().__init__()
        self.weights, self.hidden, self.short = weights, hidden, "conv_s.weight" in weights

    def norm(self, x: Tensor, hidden: Tensor, which: str) -> Tensor:
        mean, var = (self.weights[f"norm_{which}.param_free_norm.running_{key}"] for key in ("mean", "var"))
        both = F.conv2d(hidden, **named(self.weights, f"norm_{which}.mlp_gamma_beta"), padding=1)  # type: ignore[arg-type]
        gamma, beta = both.chunk(2, 1)
        return F.batch_norm(x, mean, var, eps=1e-5) * (1 + gamma) + beta

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        hidden = F.relu(F.conv2d(labels, **named(self.weights, "mlp_shared.0"), padding=1))  # type: ignore[arg-type]
        shared = hidden.split(self.hidden, 1)
        y = F.leaky_relu(self.norm(x, shared[0], "0"), 0.2)
        y = F.conv2d(y, **named(self.weights, "conv_0"), padding=1)  # type: ignore[arg-type]
        y = F.leaky_relu(self.norm(y, shared[1], "1"), 0.2)
        y = F.conv2d(y, **named(self.weights, "conv_1"), padding=1)  # type: ignore[arg-type]
        if self.short:
            x = F.conv2d(self.norm(x, shared[2], "s"), self.weights["conv_s.weight"])
        return x + y


@pytest.mark.parametrize("case", ["spade_12_8", "spade_8_8"])
def test_mode_reference_on_a_spade_block_is_golden(golden: Golden, case: str) -> None:
    files, recipe, meta = golden.files["blocks"], golden.recipe, golden.meta[case]
    labels = recipe.labels(f"input:{case}:labels", (24, 32), 6)
    x, delta = (golden.array(f"input:{case}:{key}", 1, meta["fin"], 24, 32) for key in ("x", "delta"))
    network = SpadeBlock(golden.weights(case), 2 * meta["ngf"]).eval()
    before = (x, torch.from_numpy(recipe.one_hot(labels, 6)))
    options = ReferenceOptions(dilation=meta["dilate"], level_dilation=meta["downsample_dilation"])
    for kind in ("rect", "two", "topleft", "border"):
        mask = recipe.mask(kind, 24, 32)
        edited = np.where(mask, (labels + 1) % 6, labels)
        after = (x + delta * torch.from_numpy(mask), torch.from_numpy(recipe.one_hot(edited, 6)))
        engine = make_incremental(network, before, mode="reference", reference=options)
        assert np.allclose(engine.update(before).output, files[f"{case}|full_original"], atol=2e-5, rtol=1e-5)
        update = engine.update(after)
        assert np.allclose(update.output, files[f"{case}|{kind}|sparse"], atol=2e-5, rtol=1e-5), kind
        exact = make_incremental(network, before, mode="exact")
        exact.update(before)
        assert np.allclose(exact.update(after).output, files[f"{case}|{kind}|full_edited"], atol=2e-5, rtol=1e-5), kind


class NormBlock(nn.Module):
    """conv, instance norm, relu, conv, instance norm, and the input."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.instance_norm(F.conv2d(x, **named(self.weights, "conv1"), padding=1)))  # type: ignore[arg-type]
        return F.instance_norm(F.conv2d(y, **named(self.weights, "conv2"), padding=1)) + x  # type: ignore[arg-type]


def test_mode_reference_and_frozen_on_instance_norms_are_golden(golden: Golden) -> None:
    files, network = golden.files["blocks"], NormBlock(golden.weights("inres_8")).eval()
    x, delta = (golden.array(f"input:inres_8:{key}", 1, 8, 24, 32) for key in ("x", "delta"))
    for kind in ("rect", "two", "topleft", "border"):
        after = x + delta * torch.from_numpy(golden.recipe.mask(kind, 24, 32))
        for mode, key in (("reference", "sparse"), ("frozen", "frozen_edited"), ("exact", "full_edited")):
            options = ReferenceOptions(dilation=0, level_dilation=2) if mode == "reference" else None
            engine = make_incremental(network, x, mode=mode, reference=options)  # type: ignore[arg-type]
            assert np.allclose(engine.update(x).output, files["inres_8|full_original"], atol=2e-5, rtol=1e-5)
            assert np.allclose(engine.update(after).output, files[f"inres_8|{kind}|{key}"], atol=2e-5, rtol=1e-5), (
                kind,
                mode,
            )


class DiffusionBlock(nn.Module):
    """The residual block of DDPM: group norm, swish, conv, the time added, and again."""

    def __init__(self, weights: dict[str, Tensor], time: Tensor) -> None:
        super().__init__()
        self.weights, self.time = weights, time

    def forward(self, x: Tensor) -> Tensor:
        norm = {"num_groups": 32, "eps": 1e-6}
        y = F.silu(F.group_norm(x, **norm, **named(self.weights, "norm1")))  # type: ignore[arg-type]
        y = F.conv2d(y, **named(self.weights, "conv1"), padding=1) + self.time[:, :, None, None]  # type: ignore[arg-type]
        y = F.silu(F.group_norm(y, **norm, **named(self.weights, "norm2")))  # type: ignore[arg-type]
        y = F.conv2d(y, **named(self.weights, "conv2"), padding=1)  # type: ignore[arg-type]
        if "nin_shortcut.weight" in self.weights:
            x = F.conv2d(x, **named(self.weights, "nin_shortcut"))  # type: ignore[arg-type]
        return x + y


class Halving(nn.Module):
    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), **named(self.weights, "conv"), stride=2)  # type: ignore[arg-type]


class Doubling(nn.Module):
    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.conv2d(x, **named(self.weights, "conv"), padding=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", ["ddpm_res_32_64", "ddpm_res_32_32", "ddpm_down_8", "ddpm_up_8"])
def test_mode_reference_on_the_blocks_of_a_diffusion_network_is_golden(golden: Golden, case: str) -> None:
    files, weights = golden.files["blocks"], golden.weights(case)
    channels = 32 if "res" in case else 8
    size = (8, 8) if "up" in case else (16, 16)
    x, delta = (golden.array(f"input:{case}:{key}", 1, channels, *size) for key in ("x", "delta"))
    network: nn.Module = Halving(weights) if "down" in case else Doubling(weights)
    options = ReferenceOptions(dilation=0, level_dilation=0)
    if "res" in case:
        network = DiffusionBlock(weights, golden.array(f"input:{case}:temb", 1, golden.meta[case]["cout"]))
        options = ReferenceOptions(dilation=0, level_dilation=1)
    kinds = [key.split("|")[1] for key in files.files if key.startswith(f"{case}|") and key.endswith("|sparse")]
    assert kinds
    for kind in kinds:
        after = x + delta * torch.from_numpy(golden.recipe.mask(kind, *size))
        engine = make_incremental(network.eval(), x, mode="reference", reference=options)
        engine.update(x)
        update = engine.update(after)
        assert np.allclose(update.output, files[f"{case}|{kind}|sparse"], atol=2e-5, rtol=1e-5), kind
        if f"{case}|{kind}|indices" in files:  # theirs counts a block outside of the map too
            blocks = [index for index in files[f"{case}|{kind}|indices"].tolist() if max(index) < 15]
            assert update.how["conv2d"] == f"{len(blocks)} tile" + "s" * (len(blocks) > 1)


class Attention(nn.Module):
    """The attention of DDPM over all pixels of a map."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = F.group_norm(x, 32, **named(self.weights, "norm"), eps=1e-6)  # type: ignore[arg-type]
        q, k, v = F.conv2d(y, **named(self.weights, "qkv")).flatten(2).chunk(3, 1)  # type: ignore[arg-type]
        seen = torch.softmax(q.transpose(1, 2) @ k * c**-0.5, -1)
        out = (v @ seen.transpose(1, 2)).reshape(n, c, h, w)
        return x + F.conv2d(out, **named(self.weights, "proj_out"))  # type: ignore[arg-type]


def test_attention_is_golden_and_frozen_where_theirs_is_wrong(golden: Golden) -> None:
    network = Attention(golden.weights("ddpm_attn_32")).eval()
    x = golden.array("input:ddpm_attn_32:x", 1, 32, 16, 16)
    engine = make_incremental(network, x, mode="reference")
    assert np.allclose(
        engine.update(x).output, golden.files["blocks"]["ddpm_attn_32|full_original"], atol=2e-5, rtol=1e-5
    )
    y = x.clone()
    y[:, :, 3:5, 4:6] += 1
    engine.update(y)
    assert torch.allclose(engine.update(x).output, network(x), atol=2e-5, rtol=1e-5)  # theirs is off by 2.38 here
