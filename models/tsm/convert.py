"""Published TSM checkpoints in: their key layouts become ours. Settings are arguments, never read from a file's name.

Layouts accepted, all of github.com/mit-han-lab/temporal-shift-module: offline files (`module.base_model.*`, `.net` at shift
sites, head `new_fc` or, in MobileNetV2 files, `base_model.classifier`), with or without the `state_dict` level and the
`module.` prefix, and the flat online files (`features.*`, `classifier.*`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from effvision.checkpoints import checkpoint_tensors
from effvision.errors import CheckpointError
from effvision.models.tsm.network import Direction, TemporalNetwork, build

__all__ = ["canonical_keys", "from_reference", "load_weights"]

_HEADS = ("new_fc", "classifier", "fc")
_COUNTER = "num_batches_tracked"  # of batch normalisation: absent from some published files, unused in eval mode


def from_reference(
    state_dict: Mapping[str, Any],
    *,
    backbone: str,
    frames: int = 8,
    shift: Direction = "bidirectional",
    place: Literal["blockres", "block"] = "blockres",
    non_local: bool = False,
    temporal_pool: bool = False,
) -> TemporalNetwork:
    """Build the network that a published checkpoint belongs to and fill it.

    Args:
        state_dict: Names to float tensors (or numpy arrays), or a mapping that holds them under `state_dict`.
        backbone: `resnet18`, `resnet50`, `resnet101` or `mobilenetv2`.
        frames: T the checkpoint was trained with.
        shift: `bidirectional` for the offline files, `causal` for the online one, `none` for TSN.
        place: Where the shift sits; all published files but the ablation use `blockres`.
        non_local: The checkpoint has non-local blocks.
        temporal_pool: The checkpoint was trained with a temporal pool before the second stage.

    Returns:
        The network in eval mode; the number of classes is that of the checkpoint's last layer.

    Raises:
        CheckpointError: keys or shapes do not fit; the message names the first ones and the likely setting.
        InputError: the settings do not go together.
    """
    tensors = canonical_keys(state_dict)
    if "head.weight" not in tensors or tensors["head.weight"].ndim != 2:
        raise CheckpointError(
            f"no last layer ({', '.join(_HEADS)}) among {len(tensors)} keys such as {_some(tensors)}: not a TSM checkpoint"
        )
    network = build(
        int(tensors["head.weight"].shape[0]),
        backbone=backbone,
        frames=frames,
        shift=shift,
        place=place,
        non_local=non_local,
        temporal_pool=temporal_pool,
    )
    return load_weights(network, tensors)


def load_weights(network: TemporalNetwork, tensors: Mapping[str, Tensor]) -> TemporalNetwork:
    """Copy weights with canonical keys into `network`, all of them or none, and switch it to eval mode.

    Raises:
        CheckpointError: a key is missing, left over, or of another shape.
    """
    own = network.state_dict()
    names = {_canonical(name): name for name in own}
    missing = [key for key in names if key not in tensors and not key.endswith(_COUNTER)]
    extra = [key for key in tensors if key not in names]
    if missing or extra:
        raise CheckpointError(
            f"the checkpoint does not fit this network: {len(missing)} keys missing ({_some(missing)}), "
            f"{len(extra)} left over ({_some(extra)})\n"
            "hint: check backbone, non_local and the number of blocks; settings are arguments, the file's name says nothing"
        )
    wrong = [key for key in tensors if tuple(tensors[key].shape) != tuple(own[names[key]].shape)]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"{len(wrong)} tensors have another shape than the network's, first `{key}`: "
            f"{tuple(tensors[key].shape)} in the checkpoint, {tuple(own[names[key]].shape)} in the network"
        )
    network.load_state_dict({names[key]: tensor for key, tensor in tensors.items()}, strict=False)
    return network.eval()


def canonical_keys(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of any published layout under this package's own keys.

    Raises:
        CheckpointError: an entry is no dense array of real numbers (sparse, quantised, complex, boolean, ...), or not finite.
    """
    return checkpoint_tensors(state_dict, level="state_dict", rename=_canonical)


def _canonical(key: str) -> str:
    """Strip the wrappers that depend on how a network was built: parallel, base model, shift site."""
    key = re.sub(r"^(module\.)?(network\.|base_model\.)?", "", key)
    key = re.sub(r"(^|\.)net\.", r"\1", key)
    return re.sub(rf"^({'|'.join(_HEADS)})\.", "head.", key)


def _some(names: Any) -> str:
    first = list(names)[:3]
    return ", ".join(f"`{name}`" for name in first) if first else "none"
