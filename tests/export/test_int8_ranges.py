"""Ranges for int8: as good as any that a slow search finds on the numbers themselves, and sane for whatever comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from effvision.errors import InputError
from effvision.export.int8_ranges import Counts, Range, choose_range, squared_error
from effvision.export.precision import RULES, Rule

COUNT = 20_000
Draw = Callable[[np.random.Generator], np.ndarray]
SHAPES: dict[str, Draw] = {
    "gauss": lambda rng: rng.normal(0, 1, COUNT),
    "gauss far from zero": lambda rng: rng.normal(8, 1, COUNT),
    "laplace": lambda rng: rng.laplace(0, 1, COUNT),
    "after a ReLU": lambda rng: np.maximum(rng.normal(0, 1, COUNT), 0),
    "after a ReLU that lets little through": lambda rng: np.maximum(rng.laplace(-4, 1, COUNT), 0),
    "zeros with a few numbers": lambda rng: np.where(rng.random(COUNT) < 0.999, 0, rng.laplace(0, 1, COUNT)),
    "after a ReLU6": lambda rng: np.clip(rng.normal(2, 3, COUNT), 0, 6),
    "heavy tails": lambda rng: rng.standard_t(3, COUNT),
    "heavier tails": lambda rng: rng.standard_t(2, COUNT),
    "asymmetric": lambda rng: rng.gamma(0.5, 1, COUNT) - 0.3,
    "negative": lambda rng: -rng.gamma(2, 1, COUNT),
    "even": lambda rng: rng.uniform(-1, 2, COUNT),
    "an outlier": lambda rng: np.append(rng.normal(0, 1, COUNT), 300.0),
}


def numbers(name: str, seed: int = 0) -> np.ndarray:
    return SHAPES[name](np.random.default_rng(seed)).astype(np.float32)


def counted(*steps: np.ndarray) -> Counts:
    counts = Counts()
    for step in steps:
        counts.see({"x": step})
    for step in steps:
        counts.count({"x": step})
    return counts


def range_of(values: np.ndarray, rule: Rule, *, symmetric: bool) -> Range:
    return counted(values).ranges(rule, symmetric=symmetric)["x"]


def real_error(values: np.ndarray, limits: Range, symmetric: bool) -> float:
    """Mean squared error of really quantising and dequantising, as ONNX defines it."""
    low, high = limits
    if symmetric:
        scale, zero, least, most = (high - low) / 254, 0, -127, 127
    else:
        scale, least, most = (high - low) / 255, 0, 255
        zero = round(-low / scale)
    quantised = np.clip(np.round(values / scale) + zero, least, most)
    return float((((quantised - zero) * scale - values.astype(np.float64)) ** 2).mean())


def best_error(values: np.ndarray, symmetric: bool) -> float:
    """What the best of many ranges costs, tried one by one."""
    shares = np.geomspace(0.01, 1, 120 if symmetric else 24)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    pairs: Iterable[Range]
    if symmetric:
        reach = max(-low, high)
        pairs = ((-reach * share, reach * share) for share in shares)
    else:
        lows = low * shares if low else [0.0]
        pairs = ((a, b) for a in lows for b in (high * shares if high else [0.0]))
    return min(real_error(values, pair, symmetric) for pair in pairs)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_the_least_error_is_as_small_as_a_slow_search_finds(name: str, symmetric: bool) -> None:
    values = numbers(name)
    found = real_error(values, range_of(values, "mse", symmetric=symmetric), symmetric)
    assert found <= 1.06 * best_error(values, symmetric)
    assert found <= 1.06 * real_error(values, range_of(values, "minmax", symmetric=symmetric), symmetric)


@pytest.mark.parametrize("symmetric", [False, True])
def test_clipping_pays_where_tails_are_long(symmetric: bool) -> None:
    values = numbers("heavier tails")
    low, high = range_of(values, "mse", symmetric=symmetric)
    whole = range_of(values, "minmax", symmetric=symmetric)
    assert high < whole[1] and low > whole[0]
    assert real_error(values, (low, high), symmetric) < 0.97 * real_error(values, whole, symmetric)


def test_numbers_from_zero_on_get_a_range_from_zero_on_and_a_symmetric_one_reaches_as_far_both_ways() -> None:
    values = numbers("after a ReLU")
    for rule in RULES:
        low, high = range_of(values, rule, symmetric=False)
        assert low == 0 and 0 < high <= values.max()
        low, high = range_of(values, rule, symmetric=True)
        assert low == -high and 0 < high <= values.max()
    assert range_of(-values, "mse", symmetric=False)[1] == 0


def test_min_max_is_what_was_seen_and_the_percentile_leaves_one_in_ten_thousand_out() -> None:
    values = np.random.default_rng(0).permutation(np.linspace(-1, 3, 100_000)).astype(np.float32)
    values[0], values[1] = -50, 80
    assert range_of(values, "minmax", symmetric=False) == (-50, 80)
    assert range_of(values, "minmax", symmetric=True) == (-80, 80)
    low, high = range_of(values, "percentile", symmetric=False)
    bin_width = 130 / 2048
    assert low == pytest.approx(np.quantile(values, 1e-4), abs=bin_width)
    assert high == pytest.approx(np.quantile(values, 1 - 1e-4), abs=bin_width)
    assert range_of(values, "percentile", symmetric=True) == (-high, high)


def test_a_percentile_of_nearly_nothing_but_zeros_is_the_whole_range() -> None:
    values = np.zeros(1_000_000, np.float32)
    values[:3] = -1, 2, 5
    assert range_of(values, "percentile", symmetric=False) == (-1, 5)


def test_one_huge_number_among_millions_is_cut_off_and_among_few_it_is_kept() -> None:
    few = np.append(np.random.default_rng(0).normal(0, 1, 1000), 1e4).astype(np.float32)
    assert range_of(few, "mse", symmetric=False)[1] > 9_900
    # cutting it off costs 1e8 / N, keeping it a twelfth of (1e4 / 255) squared: N above 800,000 decides
    counts = np.array([50, 100, 200, 100, 50, 0, 1]) * np.array([300_000] * 6 + [1])
    values = np.array([-2.0, -1, 0.5, 1, 2, 3, 1e4])
    assert choose_range(values, counts, (-3, 1e4), "mse", False)[1] < 1_000
    assert choose_range(values, counts, (-3, 1e4), "mse", True)[1] < 1_000


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [0.0, 1e-44, -1e-44, 1e-40, 5.0, -0.25, 3e38])
def test_one_number_again_and_again_has_a_range_that_holds_it_and_zero(
    value: float, rule: Rule, symmetric: bool
) -> None:
    low, high = range_of(np.full((2, 3), value, np.float32), rule, symmetric=symmetric)
    assert low <= 0 <= high and low < high and np.isfinite([low, high]).all()
    width = max(abs(value), 1e-30)
    assert low <= value + width / 255 and high >= value - width / 255


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_with_the_name_of_the_tensor(value: float) -> None:
    counts = Counts()
    counts.see({"good": np.ones(4, np.float32)})
    with pytest.raises(InputError, match=r"infinite numbers or NaN \(in `bad`\)\nhint: "):
        counts.see({"bad": np.array([1, value, 2], np.float32)})


def test_steps_add_up_to_what_all_of_them_at_once_give() -> None:
    values = numbers("asymmetric")
    parts = np.array_split(values, 7)
    for symmetric in (False, True):
        for rule in RULES:
            together = counted(*parts).ranges(rule, symmetric=symmetric)
            assert together == counted(values).ranges(rule, symmetric=symmetric)
            assert together == counted(*reversed(parts)).ranges(rule, symmetric=symmetric)


def test_tensors_are_counted_apart_and_an_empty_one_not_at_all() -> None:
    steps: list[dict[str, Any]] = [
        {"a": np.array([1, 2], np.float32), "b": np.array([[-3.0]], np.float32), "none": np.zeros((0, 4), np.float32)},
        {"a": np.array([4], np.float32), "b": np.array([[-1.0]], np.float32), "none": np.zeros((0, 4), np.float32)},
    ]
    counts = Counts()
    for step in steps:
        counts.see(step)
    for step in steps:
        counts.count(step)
    assert counts.ranges("minmax", symmetric=False) == {"a": (0, 4), "b": (-3, 0)}


def test_the_error_it_minimises_is_a_twelfth_of_a_step_squared_inside_and_the_distance_outside() -> None:
    values, counts = np.array([-4.0, 0.0, 1.0, 2.0, 7.0]), np.array([1, 5, 2, 1, 1])
    step = 5 / 255
    wanted = (1 * 3**2 + 0 + 3 * step**2 / 12 + 1 * 3**2) / 10
    assert squared_error(values, counts, (-1.0, 4.0)) == pytest.approx(wanted)


floats = st.floats(-1e6, 1e6, width=32)
samples = hnp.arrays(np.float32, st.integers(1, 60), elements=floats | st.just(0.0))


@settings(max_examples=150)
@given(samples, st.booleans(), st.sampled_from(RULES))
def test_any_numbers_give_a_range_around_zero_within_what_was_seen(
    values: np.ndarray, symmetric: bool, rule: Rule
) -> None:
    low, high = range_of(values, rule, symmetric=symmetric)
    assert low <= 0 <= high and low < high and np.isfinite([low, high]).all()
    if symmetric:
        assert low == -high
    if np.abs(values).max() > 1e-20:
        least, most = min(0.0, float(values.min())), max(0.0, float(values.max()))
        if symmetric:
            least, most = -max(-least, most), max(-least, most)
        assert least <= low and high <= most


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.integers(1, 10**9)), min_size=1, max_size=40, unique_by=lambda p: p[0]),
    st.booleans(),
)
def test_no_rule_is_better_than_the_one_for_the_least_error_by_its_own_measure(
    pairs: list[tuple[float, int]], symmetric: bool
) -> None:
    values, counts = map(np.array, zip(*sorted(pairs), strict=True))
    extent = (min(0.0, float(values.min())), max(0.0, float(values.max())))
    if extent[1] - extent[0] < 1e-6:
        return
    found = squared_error(values, counts, choose_range(values, counts, extent, "mse", symmetric))
    whole = choose_range(values, counts, extent, "minmax", symmetric)
    assert found <= squared_error(values, counts, whole)


@settings(max_examples=60)
@given(hnp.arrays(np.int16, st.integers(1, 60)), st.booleans(), st.sampled_from([0.125, 0.5, 64.0]))
def test_a_change_of_unit_changes_the_range_likewise(drawn: np.ndarray, symmetric: bool, unit: float) -> None:
    if not drawn.any():
        return
    values = drawn.astype(np.float32)  # the unit is exact in float32, and so are the bins
    for rule in RULES:
        low, high = range_of(values, rule, symmetric=symmetric)
        changed = range_of(values * np.float32(unit), rule, symmetric=symmetric)
        assert changed == pytest.approx((low * unit, high * unit), rel=1e-9)
