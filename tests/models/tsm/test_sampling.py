"""Frame sampling, exactly as the reference samples."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effvision.errors import InputError
from effvision.models.tsm.sampling import dense_indices, twice_indices, uniform_indices


def test_golden_sampling(shared: Path) -> None:
    wanted = json.loads((shared / "golden/tsm/sampling.json").read_text())
    ours = {"uniform": uniform_indices, "twice": twice_indices, "dense10": dense_indices}
    checked = 0
    for key, indices in wanted.items():
        found = re.fullmatch(r"(uniform|twice|dense10)_n(\d+)_t(\d+)", key)
        if found is None:
            continue
        got = ours[found[1]](int(found[2]), int(found[3]))  # type: ignore[operator]
        flat = [i for part in got for i in (part if isinstance(part, list) else [part])]
        assert flat == [i for part in indices for i in (part if isinstance(part, list) else [part])], key
        checked += 1
    assert checked >= 40


@given(st.integers(1, 2000), st.integers(1, 64))
def test_every_index_lies_in_the_video_and_in_order(count: int, frames: int) -> None:
    indices = uniform_indices(count, frames)
    assert len(indices) == frames and indices == sorted(indices)
    assert indices[0] >= 0 and indices[-1] < count
    for clip in [*twice_indices(count, frames), *dense_indices(count, frames)]:
        assert len(clip) == frames and all(0 <= index < count for index in clip)


@pytest.mark.parametrize(("count", "frames"), [(0, 8), (5, 0), (-1, 8)])
def test_an_empty_video_or_clip_is_refused(count: int, frames: int) -> None:
    with pytest.raises(InputError, match="at least one frame"):
        uniform_indices(count, frames)
