"""Published PVCNN checkpoints in: github.com/mit-han-lab/pvcnn, files `*.pth.tar`. Settings are arguments.

A published file is a mapping whose `model` holds the tensors; their names begin with `module.` where it was trained on several
GPUs. The file of the frustum pipeline holds three networks: `inst_seg_net.`, `center_reg_net.` and `box_est_net.`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from effvision.checkpoints import checkpoint_tensors
from effvision.errors import CheckpointError, InputError
from effvision.models.pvcnn.frustum import FrustumBoxes, FrustumPVCNN, FrustumSegmentation
from effvision.models.pvcnn.network import PVCNN2, PointNet, s3dis, shapenet

__all__ = ["VARIANTS", "canonical_keys", "from_reference", "load_weights"]

N = TypeVar("N", bound=nn.Module)
_COUNTER = "num_batches_tracked"  # of batch normalisation: unused in eval mode, absent from some files
_SEGMENTATION, _BOXES = "inst_seg_net.", ("center_reg_net.", "box_est_net.")
_TEMPLATES = "size_templates"

VARIANTS: dict[str, Callable[[Mapping[str, Tensor], float], nn.Module]] = {
    "s3dis": lambda tensors, width: s3dis(_classes(tensors), channels=_inputs(tensors), width=width),
    "shapenet": lambda tensors, width: shapenet(_classes(tensors), channels=_inputs(tensors), width=width),
    "s3dis++": lambda tensors, width: PVCNN2(_classes(tensors), channels=_inputs(tensors), width=width),
    "pointnet-s3dis": lambda tensors, width: PointNet(_classes(tensors), channels=_inputs(tensors), width=width),
    "kitti-frustum-seg": lambda tensors, width: FrustumSegmentation(width=width, channels=_inputs(tensors)),
    "kitti-frustum-box": lambda tensors, width: FrustumBoxes(width=width),
    "kitti-frustum": lambda tensors, width: FrustumPVCNN(width=width, channels=_inputs(tensors)),
}
"""Each published network by name: what builds it for a checkpoint's number of classes and input channels, at a width."""

# Of each variant: a tensor whose first axis counts channels, and how many there are at width 1.
_WIDTHS: dict[str, tuple[str, int]] = {
    "s3dis": ("point_features.0.point_features.layers.0.weight", 64),
    "shapenet": ("point_features.0.point_features.layers.0.weight", 64),
    "s3dis++": ("sa_layers.0.0.point_features.layers.0.weight", 32),
    "pointnet-s3dis": ("point_features.0.layers.0.weight", 64),
    "kitti-frustum-seg": ("point_features.0.point_features.layers.0.weight", 64),
    "kitti-frustum-box": ("center_reg_net.features.0.layers.0.weight", 128),
    "kitti-frustum": ("inst_seg_net.point_features.0.point_features.layers.0.weight", 64),
}


def from_reference(state_dict: Mapping[str, Any], *, variant: str, width: float = 1.0) -> nn.Module:
    """Build the network that a published checkpoint belongs to and fill it.

    Args:
        state_dict: Names to float tensors (or numpy arrays), or a mapping that holds them under `model`.
        variant: `s3dis`, `shapenet`, `s3dis++` (PVCNN++), `pointnet-s3dis`, `kitti-frustum-seg`, `kitti-frustum-box` or
            `kitti-frustum` (both, as one pipeline). A file of the whole pipeline serves all three.
        width: The multiplier the network was trained with, such as 0.25 for files named `c0p25`.

    Returns:
        The network in eval mode; numbers of classes and input channels are the checkpoint's. See `fuse` for speed.

    Raises:
        CheckpointError: keys or shapes do not fit, with the variant and width they look like; a tensor is not finite.
        InputError: there is no such variant or width.
    """
    if variant not in VARIANTS:
        raise InputError(f"`variant` must be one of {', '.join(VARIANTS)}; got {variant!r}")
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width <= 16:
        raise InputError(f"`width` must be a number above 0, such as 0.25 or 1; got {width!r}")
    tensors = _part(canonical_keys(state_dict), variant)
    try:
        network = VARIANTS[variant](tensors, float(width))
    except _Unlike as error:
        raise CheckpointError(
            f"no `{error}` among {len(tensors)} keys such as {_some(tensors)}: not a {variant} checkpoint"
            f"{_advice(tensors, variant, width)}"
        ) from error
    except InputError as error:  # a width that leaves nothing of some layer
        raise CheckpointError(f"{error}{_advice(tensors, variant, width)}") from error
    return load_weights(network, tensors, advice=_advice(tensors, variant, width))


def load_weights(network: N, tensors: Mapping[str, Tensor], *, advice: str = "") -> N:
    """Copy weights with canonical keys into `network`, all of them or none, and switch it to eval mode.

    Raises:
        CheckpointError: a key is missing, left over, or of another shape; `advice` ends the message.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in tensors and not key.endswith((_COUNTER, _TEMPLATES))]
    extra = [key for key in tensors if key not in own]
    if missing or extra:
        raise CheckpointError(
            f"the checkpoint does not fit this network: {len(missing)} keys missing ({_some(missing)}), "
            f"{len(extra)} left over ({_some(extra)}){advice}"
        )
    wrong = [key for key in tensors if tensors[key].shape != own[key].shape]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"{len(wrong)} tensors have another shape than the network's, first `{key}`: "
            f"{tuple(tensors[key].shape)} in the checkpoint, {tuple(own[key].shape)} in the network{advice}"
        )
    network.load_state_dict(dict(tensors), strict=False)
    return network.eval()


def canonical_keys(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors under the names this package uses: those published, without `module.`.

    Raises:
        CheckpointError: an entry is no dense array of real numbers, or not finite.
    """
    return checkpoint_tensors(state_dict, level="model", rename=lambda key: key.removeprefix("module."))


class _Unlike(Exception):
    """A tensor that every checkpoint of a variant has is absent."""


def _classes(tensors: Mapping[str, Tensor]) -> int:
    """Number of rows of the last layer of the classifier."""
    last = [key for key in tensors if key.startswith("classifier.") and key.count(".") == 2 and key.endswith(".bias")]
    if not last:
        raise _Unlike("classifier.*.bias")
    return tensors[max(last, key=lambda key: int(key.split(".")[1]) if key.split(".")[1].isdigit() else -1)].numel()


def _inputs(tensors: Mapping[str, Tensor]) -> int:
    """Channels that the first pointwise layer takes."""
    for prefix in ("", "inst_seg_net."):
        for middle in ("point_features.0.point_features", "point_features.0", "sa_layers.0.0.point_features"):
            weight = tensors.get(f"{prefix}{middle}.layers.0.weight")
            if weight is not None and weight.ndim == 3 and weight.shape[1] >= 3:
                return int(weight.shape[1])
    raise _Unlike("point_features.0")


def _part(tensors: dict[str, Tensor], variant: str) -> dict[str, Tensor]:
    """Return what concerns one network of the frustum pipeline's file; other files as they are."""
    boxes = {key: value for key, value in tensors.items() if key.startswith(_BOXES)}
    segmentation = {key: value for key, value in tensors.items() if key.startswith(_SEGMENTATION)}
    others = {key: value for key, value in tensors.items() if key not in boxes and key not in segmentation}
    if variant == "kitti-frustum-seg" and segmentation:
        rest = {key: value for key, value in others.items() if key != _TEMPLATES}
        return rest | {key.removeprefix(_SEGMENTATION): value for key, value in segmentation.items()}
    if variant == "kitti-frustum-box" and boxes:
        return boxes | {key: value for key, value in others.items() if key != _TEMPLATES}
    return tensors


def _advice(tensors: Mapping[str, Tensor], variant: str, width: float) -> str:
    """Say, as a hint, which variant and width the keys look like where those are not the ones given."""
    looks = _variant_of(tensors)
    if looks is None:
        return f"\nhint: this is no published PVCNN checkpoint; they are {', '.join(VARIANTS)}"
    key, full = _WIDTHS[looks]
    there = tensors[key].shape[0] / full if key in tensors and tensors[key].ndim else width
    if looks == variant and int(width * full) == int(there * full):
        return "\nhint: variant and width look right; the checkpoint may be incomplete or of another version"
    return f"\nhint: it looks like variant={looks!r}, width={there:g}; given were variant={variant!r}, width={width:g}"


def _variant_of(tensors: Mapping[str, Tensor]) -> str | None:
    def has(*starts: str) -> bool:
        return any(key.startswith(starts) for key in tensors)

    if has(_SEGMENTATION):
        return "kitti-frustum" if has(*_BOXES) else "kitti-frustum-seg"
    if has(*_BOXES):
        return "kitti-frustum-box"
    if has("sa_layers."):
        return "s3dis++"
    if has("point_features.0.voxel_layers."):
        if has("cloud_features."):
            return "s3dis"
        return "shapenet" if has("point_features.0.voxel_layers.6.") else "kitti-frustum-seg"
    return "pointnet-s3dis" if has("point_features.0.layers.", "cloud_features.") else None


def _some(names: Any) -> str:
    first = list(names)[:3]
    return ", ".join(f"`{name}`" for name in first) if first else "none"
