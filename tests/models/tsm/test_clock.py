"""Choosing frames by timestamp."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effvision.models.tsm.clock import FrameClock


def chosen(source_fps: float, rate: float, seconds: float = 10.0, *, start: float = 0.0) -> list[float]:
    clock = FrameClock(1 / rate, 1.0)
    times = [start + index / source_fps for index in range(int(seconds * source_fps))]
    return [time for time in times if clock.tick(time)]


@pytest.mark.parametrize(("source", "rate"), [(30, 12), (30, 15), (25, 12), (24, 12), (60, 12), (29.97, 10), (12, 12)])
def test_the_rate_is_kept_on_average_and_in_spacing(source: float, rate: float) -> None:
    times = chosen(source, rate)
    assert len(times) == pytest.approx(10 * rate, abs=1)
    assert np.abs(np.diff(times) - 1 / rate).max() <= 1 / source + 1e-9  # each is half a spacing off at most


def test_twice_the_rate_takes_every_second_frame() -> None:
    clock = FrameClock(1 / 15, 1.0)
    assert [clock.tick(index / 30) for index in range(8)] == [True, False] * 4


def test_a_slower_source_gives_every_frame() -> None:
    assert len(chosen(5, 12)) == 50


def test_without_a_rate_every_frame_is_due() -> None:
    clock = FrameClock(None, 1.0)
    assert all(clock.tick(time) for time in (0.0, 0.001, 0.002, 5.0))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.sampled_from([5.0, 12.0, 30.0]))
@settings(deadline=None)
def test_no_two_chosen_frames_are_much_closer_than_the_period(times: list[float], rate: float) -> None:
    clock = FrameClock(1 / rate, 1e9)
    taken = [time for time in sorted(times) if clock.tick(time)]
    assert taken[0] == min(times)
    # over any stretch the number of steps cannot exceed the rate by more than the rounding at both ends
    span = taken[-1] - taken[0]
    assert len(taken) <= span * rate + 2.5


def test_time_going_back_is_a_seek_and_a_silence_is_a_gap() -> None:
    clock = FrameClock(0.1, 1.0)
    assert clock.interruption(5.0) is None
    clock.tick(5.0)
    assert clock.interruption(4.8) == "seek"
    assert clock.interruption(4.95) is None  # a trembling clock
    assert clock.interruption(6.5) == "gap"
    assert clock.interruption(5.9) is None


def test_large_timestamps_such_as_unix_time_work() -> None:
    assert len(chosen(30, 12, start=1.8e9)) == pytest.approx(120, abs=1)
