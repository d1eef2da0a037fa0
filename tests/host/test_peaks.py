"""Peaks and moved boxes against loops written from the published rule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.host.peaks import SCORES, Score, find_peaks, moved_boxes

Map = list[list[float]]


def slow_peaks(response: Map) -> tuple[float, int]:
    """Share of the top peak among all peaks of what is above three quarters of the maximum, and where that peak is.

    A peak is higher than all its neighbours, of which there are fewer at the border. Without one: the maximum, score 0.
    """
    highest = max(map(max, response))
    above = [[max(value - 0.75 * highest, 0.0) for value in row] for row in response]
    peaks = {}
    for y, row in enumerate(above):
        for x, value in enumerate(row):
            window = [one for near in above[max(0, y - 1) : y + 2] for one in near[max(0, x - 1) : x + 2]]
            if sum(one >= value for one in window) == 1:
                peaks[y * len(row) + x] = value
    flat = [value for row in response for value in row]
    total = sum(peaks.values())
    if highest <= 0 or total <= 0:
        return 0.0, flat.index(highest)
    top = max(peaks, key=lambda place: peaks[place])
    return peaks[top] / total, top


def slow_score(response: Map, strength: float, score: Score) -> tuple[float, int]:
    flat = [value for row in response for value in row]
    highest = max(flat)
    temporal = highest / max(strength / 40, 1e-9)
    share, top = slow_peaks(response)
    return {
        "plain": (highest, flat.index(highest)),
        "temporal": (temporal, flat.index(highest)),
        "peak": (share, top),
        "combined": (share * min(temporal, 1.0), top),
    }[score]


def agrees(maps: NDArray[Any], strength: NDArray[Any], score: Score) -> None:
    found = find_peaks(maps, strength, score)
    assert found.score.dtype == found.height.dtype == np.float32
    for index, response in enumerate(maps.tolist()):
        wanted, place = slow_score(response, float(strength[index]), score)
        assert math.isclose(found.score[index], wanted, rel_tol=1e-5, abs_tol=1e-6)
        assert found.place[index] == place
        assert math.isclose(found.height[index], max(map(max, response)), rel_tol=1e-6)


@pytest.mark.parametrize("score", SCORES)
@settings(max_examples=80)
@given(data=st.data(), side=st.integers(1, 7), objects=st.integers(0, 3))
def test_peaks_are_those_of_the_loop(score: Score, data: st.DataObject, side: int, objects: int) -> None:
    few = st.sampled_from([-2.0, -1.0, 0.0, 1.0, 3.0, 3.5, 3.75, 4.0])  # ties and plateaus are common
    some = data.draw(st.lists(few, min_size=objects * side * side, max_size=objects * side * side))
    strength = data.draw(st.lists(st.sampled_from([0.0, 20.0, 160.0]), min_size=objects, max_size=objects))
    agrees(np.array(some).reshape(objects, side, side), np.array(strength), score)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_peaks_of_smooth_maps_are_those_of_the_loop(score: Score, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(0, 1, (40, 7, 7)) + rng.uniform(-2, 6, (40, 1, 1))
    maps[::2] += np.linspace(0, 3, 7)  # so that some peaks lie at the border
    agrees(maps.astype(dtype), rng.uniform(1, 80, 40), score)


def test_a_single_peak_scores_one_and_two_like_ones_score_half() -> None:
    maps = np.zeros((4, 7, 7), np.float32)
    maps[0, 3, 3] = 5
    maps[1, 0, 0] = 2  # a corner has three neighbours
    maps[2, 1, 1] = maps[2, 5, 5] = 4
    maps[3, 1, 1], maps[3, 5, 5] = 4, 2.9  # below three quarters of the maximum
    found = find_peaks(maps, np.ones(4))
    np.testing.assert_allclose(found.score, [1, 1, 0.5, 1], rtol=1e-6)
    assert found.place.tolist() == [24, 0, 8, 8]


@pytest.mark.parametrize("value", [-3.0, 0.0])
def test_maps_that_answer_nothing_score_zero(value: float) -> None:
    maps = np.full((1, 7, 7), -5.0)
    maps[0, 4, 2] = value
    for score in ("peak", "combined"):
        assert find_peaks(maps, np.ones(1), score).score.tolist() == [0]
    assert find_peaks(maps, np.ones(1), "plain").score.tolist() == [value]
    assert find_peaks(maps, np.ones(1)).place.tolist() == [30]


def test_a_plateau_without_a_peak_scores_zero_and_one_beside_a_peak_does_not_hide_it() -> None:
    maps = np.zeros((3, 7, 7))
    maps[0] = 4.0  # the same everywhere
    maps[1, 2, 2:4] = 4.0
    maps[2, 0, 0:2], maps[2, 5, 5] = 4.0, 3.8  # the only peak is lower than the plateau
    found = find_peaks(maps, np.ones(3))
    np.testing.assert_allclose(found.score, [0, 0, 1], rtol=1e-6)
    assert found.place.tolist() == [0, 16, 40]
    assert find_peaks(maps, np.ones(3), "plain").place.tolist() == [0, 16, 0]


def test_a_weak_template_is_scored_by_what_it_could_answer() -> None:
    maps = np.zeros((3, 7, 7))
    maps[:, 3, 3] = 0.5
    strength = np.array([40.0, 10.0, 0.0])
    np.testing.assert_allclose(find_peaks(maps, strength, "temporal").score, [0.5, 2.0, 5e8], rtol=1e-5)
    np.testing.assert_allclose(find_peaks(maps, strength, "combined").score, [0.5, 1.0, 1.0], rtol=1e-5)


# -- boxes ---------------------------------------------------------------------------------------------------------------


def slow_moved(box: list[float], place: int, offsets: NDArray[Any]) -> list[float]:
    """Shift by whole cells from the centre, then by the offsets there; a cell is an eighth of the box."""
    side = offsets.shape[-1]
    y, x = divmod(place, side)
    ymin, ymax, xmin, xmax = (float(offsets[edge, y, x]) for edge in range(4))
    wide, high = (box[2] - box[0]) / 8, (box[3] - box[1]) / 8
    dx, dy = x - (side - 1) / 2, y - (side - 1) / 2
    return [
        box[0] + (dx + xmin) * wide,
        box[1] + (dy + ymin) * high,
        box[2] + (dx + xmax) * wide,
        box[3] + (dy + ymax) * high,
    ]


@settings(max_examples=60)
@given(
    boxes=st.lists(
        st.tuples(st.floats(-50, 200), st.floats(-50, 200), st.floats(0.5, 90), st.floats(0.5, 90)), max_size=4
    ),
    seed=st.integers(0, 99),
)
def test_boxes_move_as_by_the_loop(boxes: list[tuple[float, ...]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = np.array([[x, y, x + wide, y + high] for x, y, wide, high in boxes]).reshape(-1, 4)
    place, offsets = rng.integers(0, 49, len(given)), rng.normal(0, 1, (len(given), 4, 7, 7)).astype(np.float32)
    found = moved_boxes(given, place, offsets)
    wanted = [slow_moved(*row) for row in zip(given.tolist(), place.tolist(), offsets, strict=True)]
    np.testing.assert_allclose(found, np.array(wanted).reshape(-1, 4), rtol=0, atol=1e-9)


def test_a_box_moves_by_an_eighth_of_itself_for_a_cell_and_stays_for_none() -> None:
    box = np.array([[10.0, 20.0, 90.0, 180.0]])
    still = np.zeros((1, 4, 7, 7))
    assert moved_boxes(box, np.array([24]), still).tolist() == box.tolist()
    assert moved_boxes(box, np.array([25]), still).tolist() == [[20, 20, 100, 180]]
    assert moved_boxes(box, np.array([24 - 7]), still).tolist() == [[10, 0, 90, 160]]
    assert moved_boxes(box, np.array([0]), still).tolist() == [[-20, -40, 60, 120]]  # as far as it can
    edges = np.zeros((1, 4, 7, 7))
    edges[0, :, 3, 3] = [1, 2, 3, 4]  # ymin, ymax, xmin, xmax
    assert moved_boxes(box, np.array([24]), edges).tolist() == [[40, 40, 130, 220]]
    assert box.tolist() == [[10, 20, 90, 180]]
