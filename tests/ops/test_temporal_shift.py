"""The shift against a slow loop written from the paper's figure, and against the authors' own numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effvision.errors import ShapeError
from effvision.ops.temporal_shift import causal_shift, stream_shift, temporal_pool, temporal_shift


def features(clips: int, frames: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn(clips * frames, channels, 2, 3, generator=torch.Generator().manual_seed(seed))


def slow_shift(x: Tensor, frames: int, fold: int, *, causal: bool) -> Tensor:
    """One number at a time: where does each channel of each frame come from."""
    y = torch.zeros_like(x)
    moved = x.shape[1] // fold
    for row in range(x.shape[0]):
        time = row % frames
        for channel in range(x.shape[1]):
            if channel < moved:
                step = -1 if causal else 1
            elif channel < 2 * moved and not causal:
                step = -1
            else:
                step = 0
            if 0 <= time + step < frames:
                y[row, channel] = x[row + step, channel]
    return y


CASES = [
    (1, 1, 8, 8),  # a single frame: the moved channels become zero
    (2, 4, 8, 8),  # two clips: nothing may leak from one to the next
    (1, 4, 3, 8),  # fewer channels than the fold: nothing moves
    (3, 5, 17, 4),  # a fold that does not divide the channels
    (1, 3, 4, 2),  # both folds together take every channel
]


@pytest.mark.parametrize(("clips", "frames", "channels", "fold"), CASES)
def test_bidirectional_shift_equals_the_slow_loop(clips: int, frames: int, channels: int, fold: int) -> None:
    x = features(clips, frames, channels)
    assert torch.equal(temporal_shift(x, frames=frames, fold=fold), slow_shift(x, frames, fold, causal=False))


@pytest.mark.parametrize(("clips", "frames", "channels", "fold"), CASES)
def test_causal_shift_equals_the_slow_loop(clips: int, frames: int, channels: int, fold: int) -> None:
    x = features(clips, frames, channels)
    assert torch.equal(causal_shift(x, frames=frames, fold=fold), slow_shift(x, frames, fold, causal=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 20), st.integers(2, 9), st.integers(0, 99))
def test_stream_shift_frame_by_frame_equals_the_causal_clip(
    clips: int, frames: int, channels: int, fold: int, seed: int
) -> None:
    x = features(clips, frames, channels, seed)
    clip = x.unflatten(0, (clips, frames))
    held = torch.zeros(clips, channels // fold, 2, 3)
    steps = []
    for time in range(frames):
        y, held = stream_shift(clip[:, time], held)
        steps.append(y)
    assert torch.equal(torch.stack(steps, 1).flatten(0, 1), causal_shift(x, frames=frames, fold=fold))


def test_the_input_is_left_alone() -> None:
    x = features(1, 4, 16)
    before = x.clone()
    temporal_shift(x, frames=4)
    causal_shift(x, frames=4)
    _, keep = stream_shift(x, torch.zeros(4, 2, 2, 3))
    keep += 1
    assert torch.equal(x, before)


def test_what_a_stream_holds_does_not_keep_the_whole_feature_map_alive() -> None:
    _, keep = stream_shift(features(1, 1, 16), torch.zeros(1, 2, 2, 3))
    assert keep.untyped_storage().nbytes() == keep.numel() * 4


@pytest.mark.parametrize("shift", [temporal_shift, causal_shift, temporal_pool])
def test_frames_must_divide_the_batch(shift: object) -> None:
    with pytest.raises(ShapeError, match="not a multiple of 3"):
        shift(torch.zeros(4, 8, 2, 2), frames=3)  # type: ignore[operator]


def test_a_fold_of_one_would_leave_nothing_in_place() -> None:
    with pytest.raises(ShapeError, match="got 1"):
        temporal_shift(torch.zeros(4, 8, 2, 2), frames=4, fold=1)


def test_held_channels_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError, match="held"):
        stream_shift(torch.zeros(1, 8, 4, 4), torch.zeros(1, 1, 2, 2))


def test_temporal_pool_takes_the_maximum_over_three_frames() -> None:
    x = features(2, 5, 3)
    clip = x.unflatten(0, (2, 5))
    wanted = torch.stack([clip[:, max(0, t - 1) : t + 2].amax(1) for t in (0, 2, 4)], 1).flatten(0, 1)
    assert torch.equal(temporal_pool(x, frames=5), wanted)


GOLDEN = ["shift_c16_t8_b2_div8", "shift_c20_t8_b1_div8", "shift_c24_t4_b3_div8", "shift_c12_t8_b1_div4"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_shift(name: str, shared: Path) -> None:
    recipe = load_recipe(shared)
    channels, frames, clips, fold = (int("".join(c for c in part if c.isdigit())) for part in name.split("_")[1:])
    golden = np.load(shared / "golden/tsm/ops.npz")[name]
    x = torch.from_numpy(recipe.normal(f"input:shift:{channels}:{frames}:{clips}", golden.shape).astype(np.float32))
    assert torch.equal(temporal_shift(x, frames=frames, fold=fold), torch.from_numpy(golden))


def test_golden_temporal_pool(shared: Path) -> None:
    golden = np.load(shared / "golden/tsm/ops.npz")["pool_c4_t8_b2"]
    x = torch.from_numpy(load_recipe(shared).normal("input:pool", (16, 4, 3, 3)).astype(np.float32))
    assert torch.equal(temporal_pool(x, frames=8), torch.from_numpy(golden))


def load_recipe(shared: Path) -> object:
    import importlib.util

    spec = importlib.util.spec_from_file_location("golden_tsm_recipe", shared / "golden/tsm/recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden_tsm_recipe"] = module
    spec.loader.exec_module(module)
    return module
