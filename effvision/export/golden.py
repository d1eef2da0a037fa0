"""Golden vectors of a kit: frames, and what PyTorch answered to each, for `runner.py --verify` on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effvision.errors import ExportError
from effvision.host.image import resize_crop
from effvision.results import Classification

__all__ = ["STEPS", "record", "shrink"]

STEPS = 20
_RESET_AT = 12  # late enough that a state which leaks through it shows, early enough that a second run follows
_MARGIN = 1.25  # frames stay larger than what the network sees, so that the preparation has something to do


def record(predictor: Any, frames: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Run `STEPS` frames, with a reset on the way, in PyTorch.

    Args:
        predictor: A `Predictor` whose one graph is `step`; it answers with a `Classification`.
        frames: (H, W, 3) uint8 RGB, all of one size; from the first again if there are too few.

    Returns:
        frames (T, H, W, 3) uint8; reset (T,) bool, whether the stream begins anew before the frame; prepared (T,) text, SHA-256
        of the network's input as little-endian float32; output (T, K) float32, the network's own; chosen (T,) int64, the
        label's index; weights: SHA-256 that the model's metadata names.

    Raises:
        ExportError: the family answers with something else.
    """
    shown = np.stack([frames[step % len(frames)] for step in range(STEPS)])
    resets = [step in (0, _RESET_AT) for step in range(STEPS)]
    prepared, outputs, chosen = [], [], []
    first = predictor.metadata.graphs["step"]
    memory, state = predictor.initial_memory(), predictor.initial_state()
    for frame, reset in zip(shown, resets, strict=True):
        if reset:
            memory, state = predictor.initial_memory(), predictor.initial_state()
        arrays = predictor.prepare({"x": frame}, memory)
        if arrays is None or set(arrays) != {first.inputs[0].name}:
            raise ExportError(
                "a kit's runner feeds the network one picture a step; this family prepares something else"
            )
        prepared.append(_digest(arrays[first.inputs[0].name]))
        answers, state = predictor.program(predictor.runtime, arrays, state)
        outputs.append(np.array(answers[first.outputs[0].name][0], np.float32))
        result, memory = predictor.finish(answers, memory)
        if not isinstance(result, Classification):
            raise ExportError(f"a kit's runner shows labels; this family answers with {type(result).__name__}")
        chosen.append(result.chosen)
    return {
        "frames": shown,
        "reset": np.array(resets),
        "prepared": np.array(prepared),
        "output": np.stack(outputs),
        "chosen": np.array(chosen, np.int64),
        "weights": np.array(predictor.metadata.weights_sha256),
    }


def shrink(frame: np.ndarray, preprocess: Mapping[str, Any]) -> np.ndarray:
    """Return a frame no larger than the check needs: a quarter more than the network sees, in its own proportions."""
    side = round(_MARGIN * (preprocess.get("short_side") or max(preprocess["size"])))
    height, width = frame.shape[:2]
    if min(height, width) <= side:
        return frame
    scale = side / min(height, width)
    return resize_crop(frame, short_side=None, size=(round(height * scale), round(width * scale)), mode="stretch")


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).astype("<f4").tobytes()).hexdigest()
