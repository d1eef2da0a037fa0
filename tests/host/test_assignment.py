"""Pairs of two lists, against trying all of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.host.assignment import assign, match_boxes


def cheapest(cost: NDArray[Any]) -> float:
    """The least sum over all ways to give each of the fewer its own of the more."""
    cost = cost if cost.shape[0] <= cost.shape[1] else cost.T
    rows, columns = cost.shape
    return min(
        (sum(cost[row, chosen[row]] for row in range(rows)) for chosen in itertools.permutations(range(columns), rows)),
        default=0.0,
    )


def checked(cost: NDArray[Any]) -> float:
    """Assign; demand that it is one to one and complete; return what it costs."""
    rows, columns = assign(cost)
    assert len(rows) == len(columns) == min(cost.shape)
    assert (np.diff(rows) > 0).all() and len(set(columns.tolist())) == len(columns)
    return float(cost[rows, columns].sum())


costs = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3, allow_nan=False))


@settings(max_examples=150)
@given(data=st.data(), rows=st.integers(0, 5), columns=st.integers(0, 5))
def test_no_other_assignment_is_cheaper(data: st.DataObject, rows: int, columns: int) -> None:
    cost = np.array(data.draw(st.lists(costs, min_size=rows * columns, max_size=rows * columns)))
    cost = cost.reshape(rows, columns)
    assert checked(cost) == pytest.approx(cheapest(cost), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("shape", [(6, 6), (4, 7), (7, 4), (1, 8), (8, 1)])
def test_random_costs_with_and_without_ties_are_assigned_best(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for trial in range(20):
        cost = rng.integers(0, 4, shape).astype(float) if trial % 2 else rng.normal(size=shape)
        assert checked(cost) == pytest.approx(cheapest(cost), abs=1e-9)


def test_a_hundred_are_assigned_as_by_their_hidden_order() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(100)
    cost = rng.uniform(1, 2, (100, 100))
    cost[np.arange(100), order] = 0.5
    assert assign(cost)[1].tolist() == order.tolist()


def test_the_costs_are_left_as_they_are() -> None:
    cost = np.random.default_rng(0).normal(size=(4, 4))
    before = cost.copy()
    assign(cost)
    assert np.array_equal(cost, before)


def best_match(overlap: NDArray[Any], good: NDArray[np.bool_]) -> tuple[int, float]:
    """Try all sets of pairs that may be: as many as possible, then the most overlap."""
    rows, columns = overlap.shape
    best = (0, 0.0)
    for chosen in itertools.product(range(-1, columns), repeat=rows):
        pairs = [(row, column) for row, column in enumerate(chosen) if column >= 0]
        if len({column for _, column in pairs}) == len(pairs) and all(good[pair] for pair in pairs):
            best = max(best, (len(pairs), round(sum(overlap[pair] for pair in pairs), 9)))
    return best


shares = st.sampled_from([0.0, 0.2, 0.3, 0.35, 0.5, 0.9, 1.0])


@settings(max_examples=80)
@given(data=st.data(), rows=st.integers(0, 4), columns=st.integers(0, 4), least=st.sampled_from([0.1, 0.3, 1.0]))
def test_as_many_boxes_as_possible_are_matched_and_then_those_that_overlap_most(
    data: st.DataObject, rows: int, columns: int, least: float
) -> None:
    count = rows * columns
    overlap = np.array(data.draw(st.lists(shares, min_size=count, max_size=count))).reshape(rows, columns)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool).reshape(rows, columns)
    for allowed in (None, mask):
        good = (overlap >= least) if allowed is None else (overlap >= least) & allowed
        one, other = match_boxes(overlap, least=least, allowed=allowed)
        assert good[one, other].all() and (np.diff(one) > 0).all()
        assert len(set(other.tolist())) == len(other) == len(one)
        found = (len(one), round(float(overlap[one, other].sum()), 9))
        assert found == pytest.approx(best_match(overlap, good), abs=1e-6)


def test_an_overlap_of_exactly_the_least_is_a_match_and_less_is_none() -> None:
    overlap = np.array([[0.3, 0.0], [0.0, 0.2999]])
    assert [side.tolist() for side in match_boxes(overlap, least=0.3)] == [[0], [0]]


def test_two_objects_that_want_the_same_box_both_get_one_where_there_are_two() -> None:
    overlap = np.array([[0.9, 0.4], [0.8, 0.0]])
    assert match_boxes(overlap, least=0.3)[1].tolist() == [1, 0]
    assert match_boxes(overlap, least=0.5)[1].tolist() == [0]  # only the first box is left, and it goes to the better


def test_a_pair_that_may_not_be_is_none_however_well_it_overlaps() -> None:
    overlap = np.array([[1.0, 0.4]])
    allowed = np.array([[False, True]])
    assert [side.tolist() for side in match_boxes(overlap, least=0.3, allowed=allowed)] == [[0], [1]]
    assert match_boxes(overlap, least=0.3, allowed=~allowed)[1].tolist() == [0]
    assert match_boxes(overlap, least=0.3, allowed=np.zeros((1, 2), bool))[0].tolist() == []
    assert allowed.tolist() == [[False, True]]
