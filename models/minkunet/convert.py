"""Weights of the authors' repository `spvnas` into our networks: the same keys, so only checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from effvision.errors import CheckpointError, InputError
from effvision.models.minkunet.network import CHANNELS, SPVCNN, MinkUNet, SparseUNet

__all__ = ["NETWORKS", "from_reference"]

NETWORKS: dict[str, type[SparseUNet]] = {"minkunet": MinkUNet, "spvcnn": SPVCNN}

_COUNTER = "num_batches_tracked"  # of batch normalisation: unused in eval mode, absent from our files
_PREFIX = "module."  # of networks trained with DataParallel


def from_reference(
    state_dict: Mapping[str, Any], *, network: str = "minkunet", width: float = 1.0, voxel_size_m: float = 0.05
) -> SparseUNet:
    """Load a published checkpoint.

    Args:
        state_dict: Of `init` in the folders that `spvnas` publishes: the dict under `model`, or what holds it. The names of
            torchsparse's two generations, `kernel` and `weight`-free, are the same here.
        network: `minkunet` or `spvcnn`.
        width: `cr` of the checkpoint's `net.config`: 0.5, 0.64 or 1.
        voxel_size_m: `vres` there, which is also `pres`.

    Returns:
        The network in eval mode: net(coords (V, 4) int32 x y z batch, feats (V, C)) -> (V, K).

    Raises:
        InputError: another network.
        CheckpointError: keys or shapes that are not that network's.
    """
    if network not in NETWORKS:
        raise InputError(f"`network` must be one of {', '.join(NETWORKS)}; got {network!r:.60}")
    found = state_dict.get("model", state_dict)
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(
            "this is no state_dict: it holds something else than tensors\nhint: give its entry `model`"
        )
    tensors = {key.removeprefix(_PREFIX): value for key, value in found.items()}
    stem, head = tensors.get("stem.0.kernel"), tensors.get("classifier.0.weight")
    if stem is None or head is None or stem.ndim != 3 or head.ndim != 2:
        raise CheckpointError(
            "this is no MinkUNet or SPVCNN checkpoint of spvnas: `stem.0.kernel` or `classifier.0.weight` is missing\n"
            f"hint: it holds {', '.join(list(tensors)[:3]) or 'nothing'}"
        )
    sizes = {"in_channels": stem.shape[1], "classes": head.shape[0], "width": width, "voxel_size_m": voxel_size_m}
    made = SPVCNN(**sizes, point_size_m=voxel_size_m) if network == "spvcnn" else MinkUNet(**sizes)
    load_weights(made, tensors)
    return made.eval()


def load_weights(network: SparseUNet, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors whose names and shapes must be exactly the network's, but for the counters of batch normalisation.

    Raises:
        CheckpointError: they are not; the width they look like is named.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in tensors and not key.endswith(_COUNTER)]
    unknown = [key for key in tensors if key not in own]
    wrong = [key for key in own if key in tensors and tensors[key].shape != own[key].shape]
    if missing or unknown or wrong:
        width = tensors["stem.0.kernel"].shape[-1] / CHANNELS[0] if "stem.0.kernel" in tensors else None
        told = [
            f"{len(keys)} {what} ({', '.join(keys[:3])})"
            for keys, what in ((missing, "missing"), (unknown, "unknown"), (wrong, "of another shape"))
            if keys
        ]
        looks = f"\nhint: it looks like width={width:g}; given was width={network.width:g}" if width else ""
        raise CheckpointError(f"the checkpoint does not fit: {'; '.join(told)}{looks}")
    network.load_state_dict({**own, **tensors})
