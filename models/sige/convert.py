"""Published checkpoints of generators into our networks.

SPADE's authors (NVlabs/SPADE) keep a norm's convolutions on the labels apart: `norm_0.mlp_shared`, `mlp_gamma`, `mlp_beta`.
Li et al. (lmxyy/sige) join those that read the same map: `mlp_shared` of a block, `mlp_gamma_beta` of a norm. Both come in
here. Spectral norms are divided out once, here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from effvision.checkpoints import checkpoint_tensors
from effvision.errors import CheckpointError, InputError
from effvision.models.sige.network import Norm, SpadeGenerator, Upsampling
from effvision.models.sige.pix2pix import ResNetGenerator, UNetGenerator

__all__ = ["Network", "from_reference", "fuse_spectral_norm", "join_spade"]

Network = Literal["spade", "resnet", "unet"]

_PREFIXES = ("module.", "netG.", "generator.")  # of wrappers that training put around the network
_COUNTER = "num_batches_tracked"
_NEW_NAMES = {  # of spectral norms as parametrizations, in the names of the older form
    ".parametrizations.weight.original": ".weight_orig",
    ".parametrizations.weight.0._u": ".weight_u",
    ".parametrizations.weight.0._v": ".weight_v",
}


def from_reference(
    state_dict: Mapping[str, Any],
    *,
    network: Network = "spade",
    width: int | None = None,
    upsampling: Upsampling | None = None,
    first_size: tuple[int, int] | None = None,
) -> nn.Module:
    """Load a published checkpoint.

    Args:
        state_dict: Names to float tensors (or numpy arrays), or a mapping that holds them under `state_dict`. Spectral norms
            may still be in it.
        network: `spade` (GauGAN; keys of NVlabs/SPADE or lmxyy/sige), `resnet` or `unet` (pytorch-CycleGAN-and-pix2pix).
        width: `ngf`: refused if the checkpoint has another. Default: the checkpoint's.
        upsampling: `--num_upsampling_layers` of a SPADE checkpoint, which its tensors do not tell but for `most`: `more` for
            Cityscapes and so the default, `normal` for COCO and ADE20K.
        first_size: Rows and columns of the first map, for a SPADE checkpoint that starts from noise (`--use_vae`). Default: a
            square.

    Returns:
        The network in eval mode: net(picture or one-hot labels (N, C, H, W)) -> (N, 3, H, W) in -1..1. Batch norms use the
        statistics kept in training and dropout is off, which for pix2pix is `--eval` of the authors' test.

    Raises:
        InputError: another network, or an option it does not have.
        CheckpointError: keys or shapes that are not that network's, another width, a tensor that is not finite.
    """
    if network not in get_args(Network):
        raise InputError(f"`network` {network!r:.60} is unknown\nhint: one of {', '.join(get_args(Network))}")
    if network != "spade" and (upsampling is not None or first_size is not None):
        raise InputError(
            f"`upsampling` and `first_size` are SPADE's; network={network!r} has neither\nhint: leave them out"
        )
    tensors = checkpoint_tensors(state_dict, level="state_dict", rename=_rename)
    if any(".mlp_gamma.conv." in key for key in tensors):
        raise CheckpointError(
            "this is a generator of GAN Compression, whose convolutions on the labels are taken apart; it is not supported\n"
            "hint: give the original GauGAN it was compressed from"
        )
    tensors = fuse_spectral_norm(tensors)
    made: SpadeGenerator | ResNetGenerator | UNetGenerator
    try:
        if network == "spade":
            tensors = join_spade(tensors)
            made = _spade(tensors, upsampling, first_size)
        else:
            made = _resnet(tensors) if network == "resnet" else _unet(tensors)
            tensors = _without_tracked(made, tensors)
    except _Unlike as error:
        raise CheckpointError(
            f"no `{error}` that fits among {len(tensors)} keys such as {_some(tensors)}: not a {network} checkpoint"
            f"{_advice(tensors, network)}"
        ) from error
    if width is not None and width != made.width:
        raise CheckpointError(
            f"the checkpoint has width {made.width}; given was width={width}\nhint: leave `width` out to take the checkpoint's"
        )
    return _load(made, tensors, f"\nhint: as a {network} checkpoint it looks like width={made.width}")


def fuse_spectral_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide every weight under a spectral norm by its norm, as PyTorch does in eval mode: W / (u^T W v).

    Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018, equation 8.

    Args:
        tensors: With `X.weight_orig`, `X.weight_u` and `X.weight_v` in place of `X.weight`. PyTorch before 1.0 kept the divided
            weight itself and no v: then it is taken.

    Returns:
        The same with `X.weight` (float32) instead; other tensors as they are.

    Raises:
        CheckpointError: one of the three is missing or does not fit, or the norm is 0.
    """
    found = dict(tensors)
    for key in [key for key in tensors if key.endswith(".weight_orig")]:
        name = key.removesuffix("_orig")
        weight, u, v = found.pop(key), found.pop(f"{name}_u", None), found.pop(f"{name}_v", None)
        if name in tensors:
            continue
        if u is None or v is None:
            raise CheckpointError(
                f"`{key}` is under a spectral norm, but `{name}_{'u' if u is None else 'v'}` is missing\n"
                "hint: save the state_dict of the whole network, its buffers too"
            )
        matrix = weight.double().flatten(1)
        if u.shape != matrix.shape[:1] or v.shape != matrix.shape[1:]:
            raise CheckpointError(
                f"`{key}` of {tuple(weight.shape)} needs vectors of {matrix.shape[0]} and {matrix.shape[1]}; got "
                f"{tuple(u.shape)} and {tuple(v.shape)}\nhint: they belong to another layer"
            )
        norm = torch.dot(u.double(), matrix @ v.double())
        if not bool(norm != 0):
            raise CheckpointError(
                f"the spectral norm of `{key}` is 0: there is nothing to divide by\nhint: it is damaged"
            )
        found[name] = (weight.double() / norm).float()
    return found


def join_spade(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the convolutions on the labels that SPADE's authors keep apart; joined ones stay as they are.

    Raises:
        CheckpointError: some of those that belong together are missing, or their shapes do not fit.
    """
    found = dict(tensors)
    middle = ".norm_0.mlp_shared.0.weight"
    for block in [key.removesuffix(middle) for key in tensors if key.endswith(middle)]:
        norms = [
            name for name in ("norm_0", "norm_1", "norm_s") if any(k.startswith(f"{block}.{name}.") for k in tensors)
        ]
        for end in ("weight", "bias"):
            parts = [f"{block}.{name}.mlp_shared.0.{end}" for name in norms]
            found[f"{block}.mlp_shared.0.{end}"] = _joined(found, parts)
            for name in norms:
                parts = [f"{block}.{name}.mlp_{half}.{end}" for half in ("gamma", "beta")]
                found[f"{block}.{name}.mlp_gamma_beta.{end}"] = _joined(found, parts)
    return found


class _Unlike(Exception):
    """A tensor that every checkpoint of a network has is absent or of another kind."""


def _joined(tensors: dict[str, Tensor], names: list[str]) -> Tensor:
    missing = [name for name in names if name not in tensors]
    if missing:
        raise CheckpointError(f"`{missing[0]}` is missing beside `{names[0]}`\nhint: the checkpoint is not complete")
    parts = [tensors.pop(name) for name in names]
    if any(part.shape[1:] != parts[0].shape[1:] for part in parts):
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise CheckpointError(f"{_some(names)} belong together but are {shapes}\nhint: the checkpoint mixes networks")
    return torch.cat(parts)


def _rename(key: str) -> str:
    """Take off prefixes of wrappers; spectral norms under their older names."""
    while key.startswith(_PREFIXES):
        key = key.partition(".")[2]
    for new, old in _NEW_NAMES.items():
        if key.endswith(new):
            return key.removesuffix(new) + old
    return key


def _shape(tensors: Mapping[str, Tensor], key: str, axes: int = 4) -> tuple[int, ...]:
    if key not in tensors or tensors[key].ndim != axes:
        raise _Unlike(key)
    return tuple(tensors[key].shape)


def _spade(
    tensors: Mapping[str, Tensor], upsampling: Upsampling | None, first_size: tuple[int, int] | None
) -> SpadeGenerator:
    """An empty network of the tensors' sizes."""
    labels, kernel = _shape(tensors, "head_0.mlp_shared.0.weight")[1:3]
    hidden = _shape(tensors, "head_0.norm_0.mlp_gamma_beta.weight")[1]
    last = _shape(tensors, "conv_img.weight")[1]
    most = "up_4.conv_0.weight" in tensors
    if upsampling is not None and (upsampling == "most") != most:
        raise CheckpointError(
            f"the checkpoint has {'a' if most else 'no'} block `up_4`; given was upsampling={upsampling!r}\n"
            f"hint: {'it is `most`' if most else 'it is `normal` or `more`'}"
        )
    width = 2 * last if most else last
    norm: Norm = "batch" if "head_0.norm_0.param_free_norm.running_mean" in tensors else "instance"
    noise = None
    if "fc.weight" in tensors and tensors["fc.weight"].ndim == 2:
        pixels, rest = divmod(len(tensors["fc.weight"]), 16 * width)
        noise, first_size = int(tensors["fc.weight"].shape[1]), first_size or (int(pixels**0.5), int(pixels**0.5))
        if rest or first_size[0] * first_size[1] != pixels:
            raise CheckpointError(
                f"`fc.weight` makes {len(tensors['fc.weight'])} values of noise: a first map of {pixels} pixels and "
                f"{16 * width} channels, which is not first_size={first_size}\nhint: give `first_size`, rows and columns"
            )
    return SpadeGenerator(
        labels,
        width=width,
        hidden=hidden,
        norm=norm,
        upsampling=upsampling or ("most" if most else "more"),
        kernel=kernel,
        noise=noise,
        first_size=first_size,
    )


def _resnet(tensors: Mapping[str, Tensor]) -> ResNetGenerator:
    width, inputs = _shape(tensors, "model.1.weight")[:2]
    blocks = len({key.split(".")[1] for key in tensors if ".conv_block." in key})
    outputs = _shape(tensors, f"model.{17 + blocks}.weight")[0]
    norm: Norm = "batch" if "model.2.weight" in tensors else "instance"
    dropout = "model.10.conv_block.6.weight" in tensors and tensors["model.10.conv_block.6.weight"].ndim == 4
    if not blocks:
        raise _Unlike("model.10.conv_block.1.weight")
    return ResNetGenerator(inputs, outputs, width=width, blocks=blocks, norm=norm, dropout=dropout)


def _unet(tensors: Mapping[str, Tensor]) -> UNetGenerator:
    width, inputs = _shape(tensors, "model.model.0.weight")[:2]
    outputs = _shape(tensors, "model.model.3.weight")[1]
    inner, levels = "model.model.1.model.", 1
    norm: Norm = "batch" if f"{inner}2.weight" in tensors else "instance"
    while f"{inner}1.weight" in tensors:
        inner, levels = f"{inner}3.model.", levels + 1
    if levels < 5:
        raise _Unlike(f"{inner}1.weight")
    # A dropout stands last in its level, so the keys are the same with and without, and in eval mode the answers too.
    return UNetGenerator(inputs, outputs, width=width, levels=levels, norm=norm)


def _without_tracked(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out statistics that instance norms of old releases tracked and no version of the authors' test uses."""
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.InstanceNorm2d)}
    tracked = ("running_mean", "running_var", _COUNTER)
    return {
        key: value for key, value in tensors.items() if not (key.rpartition(".")[0] in norms and key.endswith(tracked))
    }


def _load(network: nn.Module, tensors: Mapping[str, Tensor], advice: str) -> nn.Module:
    """Copy all tensors, whose names and shapes must be exactly the network's."""
    own = network.state_dict()
    missing = [key for key in own if key not in tensors and not key.endswith(_COUNTER)]
    extra = [key for key in tensors if key not in own]
    wrong = [key for key in own if key in tensors and tensors[key].shape != own[key].shape]
    if missing or extra or wrong:
        told = [
            f"{len(keys)} {what} ({_some(keys)})"
            for keys, what in ((missing, "missing"), (extra, "unknown"), (wrong, "of another shape"))
            if keys
        ]
        if wrong:
            key = wrong[0]
            told.append(f"`{key}` is {tuple(tensors[key].shape)} and should be {tuple(own[key].shape)}")
        raise CheckpointError(f"the checkpoint does not fit: {'; '.join(told)}{advice}")
    network.load_state_dict(dict(tensors), strict=False)
    return network.eval()


def _advice(tensors: Mapping[str, Tensor], network: str) -> str:
    """Say, as a hint, which network the keys look like."""
    signs: dict[str, Callable[[str], bool]] = {
        "spade": lambda key: key.startswith("head_0."),
        "resnet": lambda key: ".conv_block." in key,
        "unet": lambda key: key.startswith("model.model.1.model."),
    }
    looks = next((name for name, sign in signs.items() if any(map(sign, tensors))), None)
    if looks is None:
        return f"\nhint: known are {', '.join(signs)}; a discriminator or an encoder is none of them"
    return f"\nhint: it looks like network={looks!r}" + (", with something missing" if looks == network else "")


def _some(names: Any) -> str:
    first = list(names)[:3]
    return ", ".join(f"`{cast(str, name)}`" for name in first) if first else "none"
