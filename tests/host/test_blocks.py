"""Cutting scenes into columns and joining the answers: against slow loops, and what must hold for any scene."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from effvision.errors import InputError, RangeError, ShapeError, StateError
from effvision.host.blocks import Blocks, Votes, column_groups

FUZZ = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SCENES = arrays.arrays(np.float32, st.tuples(st.integers(1, 60), st.just(3)), elements=st.floats(-9, 9, width=16))


def scene(points: int, seed: int = 0, size: float = 6.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, size, (points, 3)).astype(np.float32)


def groups_of(xyz: np.ndarray, **options: Any) -> set[frozenset[int]]:
    order, bounds = column_groups(xyz, **options)
    return {frozenset(order[a:b].tolist()) for a, b in itertools.pairwise(bounds)}


def slow_groups(xyz: np.ndarray, block_m: float, offset: float, merge_below: int) -> set[frozenset[int]]:
    """The same by loops over points and columns, in plain numbers."""
    low = [min(float(point[axis]) for point in xyz) for axis in range(2)]
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, point in enumerate(xyz):
        cell = tuple(math.floor((float(point[axis]) - low[axis] + offset) / block_m) for axis in range(2))
        cells[cell].append(number)  # type: ignore[index]
    out = {cell: list(members) for cell, members in cells.items() if len(members) >= merge_below}
    for cell, members in cells.items():
        if len(members) >= merge_below:
            continue
        mean = [math.fsum(float(xyz[i][axis]) for i in members) / len(members) for axis in range(2)]
        best, nearest = math.inf, cell
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                other = (cell[0] + dx, cell[1] + dy)
                if other == cell or len(cells.get(other, [])) < merge_below:
                    continue
                middle = [low[axis] - offset + (other[axis] + 0.5) * block_m for axis in range(2)]
                gap = sum((mean[axis] - middle[axis]) ** 2 for axis in range(2))
                if gap < best - 1e-9:
                    best, nearest = gap, other
        out.setdefault(nearest, []).extend(members)
    return {frozenset(members) for members in out.values()}


@pytest.mark.parametrize("offset", [0.0, 0.75])
@pytest.mark.parametrize("merge_below", [0, 2, 12, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_columns_are_those_of_a_slow_loop(offset: float, merge_below: int, seed: int) -> None:
    xyz = scene(300, seed)
    wanted = slow_groups(xyz, 1.5, offset, merge_below)
    assert groups_of(xyz, block_m=1.5, offset=offset, merge_below=merge_below) == wanted


@FUZZ
@given(SCENES, st.sampled_from([0.5, 1.5, 3.0]), st.integers(1, 9), st.integers(0, 6), st.booleans(), st.integers(0, 9))
def test_every_point_is_voted_on_in_every_pass(
    xyz: np.ndarray, block_m: float, points: int, merge_below: int, repeat: bool, seed: int
) -> None:
    blocks = Blocks(xyz, block_m=block_m, points=points, merge_below=merge_below, repeat=repeat, seed=seed)
    chunks = list(blocks)
    assert len(chunks) == len(blocks)
    seen = np.zeros(len(xyz), int)
    for chunk in chunks:
        assert len(chunk.index) == points if repeat else 1 <= len(chunk.index) <= points
        assert (xyz[chunk.index] >= chunk.low).all()
        np.add.at(seen, chunk.index, 1)
    assert (seen >= 2).all() if repeat else (seen == 2).all()  # two offsets
    again = list(Blocks(xyz, block_m=block_m, points=points, merge_below=merge_below, repeat=repeat, seed=seed))
    assert all((one.index == other.index).all() for one, other in zip(chunks, again, strict=True))


@FUZZ
@given(SCENES, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.25]), st.integers(0, 5))
def test_the_order_of_the_points_does_not_matter_for_the_columns(
    xyz: np.ndarray, random: Any, offset: float, merge_below: int
) -> None:
    shuffle = list(range(len(xyz)))
    random.shuffle(shuffle)
    wanted = groups_of(xyz, block_m=0.5, offset=offset, merge_below=merge_below)
    found = groups_of(xyz[shuffle], block_m=0.5, offset=offset, merge_below=merge_below)
    assert {frozenset(shuffle[i] for i in group) for group in found} == wanted


def test_a_point_on_a_border_belongs_to_the_column_above_it() -> None:
    xyz = np.array([[0, 0, 0], [0.999, 0, 0], [1, 0, 0], [2, 0, 0], [2, 1, 9]], np.float32)
    assert groups_of(xyz, block_m=1.0) == {frozenset({0, 1}), frozenset({2}), frozenset({3}), frozenset({4})}


def test_points_are_repeated_as_evenly_as_can_be_and_shuffled() -> None:
    (first, second), other = Blocks(scene(700, size=1), block_m=2, points=512, offsets=[0]), scene(700, size=1)
    counts = np.bincount(np.concatenate([first.index, second.index]), minlength=700)
    assert set(counts) == {1, 2} and counts.sum() == 1024
    assert not (np.diff(first.index) > 0).all()
    different = next(iter(Blocks(other, block_m=2, points=512, offsets=[0], seed=1)))
    assert (different.index != first.index).any()


def test_the_low_corner_is_that_of_the_whole_column() -> None:
    xyz = scene(900)
    for chunk in Blocks(xyz, block_m=1.5, points=32, offsets=[0]):
        (column,) = (group for group in groups_of(xyz, block_m=1.5) if int(chunk.index[0]) in group)
        np.testing.assert_array_equal(chunk.low, xyz[sorted(column)].min(axis=0))


def test_a_scene_far_wider_than_its_columns_is_refused_or_cut() -> None:
    wide = np.array([[0, 0, 0], [1e6, -1e6, 0]], np.float64)
    assert len(groups_of(wide, block_m=0.01)) == 2
    with pytest.raises(RangeError, match=r"too many columns of 1e-05 m\nhint:"):
        Blocks(wide, block_m=1e-5, points=4).__len__()


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_m": 0},
        {"block_m": math.nan},
        {"points": 0},
        {"merge_below": -1},
        {"offsets": []},
        {"offsets": [math.inf]},
    ],
)
def test_impossible_columns_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Blocks(scene(9), **{"block_m": 1.0, "points": 4, **wrong})


def test_a_scene_that_is_none_is_refused() -> None:
    for kind, bad in (
        (ShapeError, np.zeros((0, 3))),
        (ShapeError, np.zeros((4, 2))),
        (RangeError, np.full((4, 3), np.nan)),
    ):
        with pytest.raises(kind):
            Blocks(bad, block_m=1.0, points=4)


# --- votes --------------------------------------------------------------------------------------------------------------


def answers(chunks: int, points: int, classes: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(chunks):
        logits = rng.integers(-2, 3, (points * 2, classes)).astype(np.float64)  # few values: many ties
        shares = np.exp(logits)
        out.append(
            (rng.integers(0, points, points * 2), (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32))
        )
    out.append((np.arange(points), np.full((points, classes), 1 / classes, np.float32)))
    return out


def slow_votes(
    given: list[tuple[np.ndarray, np.ndarray]], points: int, classes: int, rule: str
) -> tuple[list[int], list[float]]:
    best: list[tuple[float, int]] = [(-1.0, 0)] * points
    sums: list[list[list[float]]] = [[[] for _ in range(classes)] for _ in range(points)]
    for index, probabilities in given:
        for point, row in zip(index.tolist(), probabilities.tolist(), strict=True):
            label = row.index(max(row))
            if row[label] > best[point][0]:
                best[point] = (row[label], label)
            for k, share in enumerate(row):
                sums[point][k].append(share)
    if rule == "confidence":
        return [label for _, label in best], [score for score, _ in best]
    means = [[math.fsum(shares) / len(shares) for shares in point] for point in sums]
    return [row.index(max(row)) for row in means], [max(row) for row in means]


@pytest.mark.parametrize("seed", range(4))
def test_the_greatest_confidence_wins_and_of_equals_the_first(seed: int) -> None:
    given = answers(3, 20, 4, seed)
    votes = Votes(20, 4)
    for index, probabilities in given:
        votes.add(index, probabilities)
    labels, scores = votes.result()
    wanted = slow_votes(given, 20, 4, "confidence")
    assert labels.tolist() == wanted[0] and scores.tolist() == wanted[1]
    assert labels.dtype == np.int32 and scores.dtype == np.float32


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_of_all_votes_decides_under_the_other_rule(seed: int) -> None:
    given = answers(3, 20, 4, seed)
    votes = Votes(20, 4, rule="mean")
    for index, probabilities in given:
        votes.add(index, probabilities)
    labels, scores = votes.result()
    wanted = slow_votes(given, 20, 4, "mean")
    np.testing.assert_allclose(scores, wanted[1], rtol=1e-5)
    assert np.mean(labels == wanted[0]) >= 0.9  # means that are equal but for rounding may fall to either class


@FUZZ
@given(SCENES, st.sampled_from(["confidence", "mean"]), st.booleans())
def test_a_network_that_always_says_the_same_of_a_point_is_joined_to_just_that(
    xyz: np.ndarray, rule: Any, repeat: bool
) -> None:
    truth = np.arange(len(xyz)) % 5
    votes = Votes(len(xyz), 5, rule=rule)
    assert votes.missing == len(xyz)
    for chunk in Blocks(xyz, block_m=2.0, points=7, merge_below=3, repeat=repeat):
        votes.add(chunk.index, np.eye(5, dtype=np.float32)[truth[chunk.index]])
    labels, scores = votes.result()
    assert votes.missing == 0 and labels.tolist() == truth.tolist() and (scores == 1).all()


def test_a_point_without_a_vote_is_no_result() -> None:
    for rule in ("confidence", "mean"):
        votes = Votes(4, 2, rule=rule)  # type: ignore[arg-type]
        votes.add(np.array([0, 2, 0]), np.full((3, 2), 0.5))
        votes.add(np.zeros(0, np.int64), np.zeros((0, 2)))
        with pytest.raises(StateError, match="2 of 4 points got no vote"):
            votes.result()


@pytest.mark.parametrize(
    ("kind", "index", "probabilities"),
    [
        (ShapeError, np.zeros(3, int), np.zeros((3, 3))),
        (ShapeError, np.zeros(3, int), np.zeros((2, 2))),
        (ShapeError, np.zeros(3), np.zeros((3, 2))),
        (RangeError, np.array([0, 9]), np.zeros((2, 2))),
        (RangeError, np.array([0, -1]), np.zeros((2, 2))),
        (RangeError, np.array([0, 1]), np.array([[0, 1], [0, np.nan]])),
        (RangeError, np.array([0, 1]), np.array([[0, 1], [-3, 7.0]])),
    ],
)
def test_votes_that_are_none_are_refused(kind: type[InputError], index: Any, probabilities: Any) -> None:
    with pytest.raises(kind):
        Votes(9, 2).add(index, probabilities)


@pytest.mark.parametrize("wrong", [(0, 2, "mean"), (2, 0, "mean"), (2, 2, "max")])
def test_impossible_votes_are_refused(wrong: tuple[int, int, Any]) -> None:
    with pytest.raises(InputError):
        Votes(wrong[0], wrong[1], rule=wrong[2])


def test_a_million_points_are_cut_and_voted_on_in_seconds() -> None:
    xyz = scene(1_000_000, size=100)
    start = time.process_time()
    votes = Votes(len(xyz), 4)
    for chunk in Blocks(xyz, block_m=12.5, points=8192, merge_below=819):
        votes.add(chunk.index, np.full((len(chunk.index), 4), 0.25, np.float32))
    votes.result()
    assert time.process_time() - start < 10
