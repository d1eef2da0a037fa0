"""The pieces under the engine: how intervals travel, how regions are covered, what is kept, what is chosen."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvision.host import regions as areas
from effvision.host.edit_axes import Axis, Pad, Picked, Spread, Weighted, Window, as_data, from_data
from effvision.host.edit_journal import Journal, Old, Step
from effvision.host.regions import Mask, area, paint, split, tidy, tiles, within
from effvision.incremental import make_incremental
from effvision.incremental.blocks import choose_kept, make_blocks
from effvision.incremental.costs import measured
from effvision.incremental.journal import Maps
from effvision.incremental.lookup import linear_axis
from effvision.incremental.trace import trace
from painters import ResnetGenerator, SpadeGenerator, UnetGenerator
from waiting import best_of_three


def windows() -> list[tuple[Axis, Callable[[Tensor], Tensor]]]:
    """Axes of 11 pixels and what they stand for, as a function of one row of numbers."""
    found: list[tuple[Axis, Callable[[Tensor], Tensor]]] = []
    for k, s, p, d in (
        (1, 1, 0, 1),
        (3, 1, 1, 1),
        (3, 2, 1, 1),
        (4, 2, 1, 1),
        (2, 3, 0, 1),
        (3, 1, 2, 2),
        (5, 2, 4, 1),
    ):
        kernel = torch.ones(1, 1, k)
        out = F.conv1d(torch.zeros(1, 1, 11), kernel, None, s, p, d).shape[2]
        found.append((Window(11, out, k, s, p, d), lambda x, a=(kernel, None, s, p, d): F.conv1d(x, *a)))
        out = F.conv_transpose1d(torch.zeros(1, 1, 11), kernel, None, s, min(p, k - 1), 0, 1, d).shape[2]
        given = (kernel, None, s, min(p, k - 1), 0, 1, d)
        found.append((Spread(11, out, k, s, min(p, k - 1), d), lambda x, a=given: F.conv_transpose1d(x, *a)))
    for mode in ("constant", "reflect", "replicate", "circular"):
        for before, after in ((0, 0), (3, 1), (1, 4)) + (((-2, 1), (0, -3)) if mode == "constant" else ()):
            found.append(
                (Pad(11, 11 + before + after, before, mode), lambda x, a=((before, after), mode): F.pad(x, *a))
            )
    return found


@pytest.mark.parametrize("number", range(len(windows())))
def test_an_interval_touches_what_changes_and_needs_what_it_is_made_of(number: int) -> None:
    axis, run = windows()[number]
    table = (
        torch.stack([run(torch.eye(11)[i].view(1, 1, -1))[0, 0] for i in range(11)]) != 0
    )  # input i matters to output o
    assert table.shape == (11, axis.m)
    for lo in range(11):
        for hi in range(lo + 1, 12):
            changed = table[lo:hi].any(0).nonzero().flatten().tolist()
            first, last = axis.touches(lo, hi)
            assert first >= 0 and last <= axis.m and all(first <= o < last for o in changed)
            if isinstance(axis, Window) and axis.reach < 3 and changed:
                assert (first, last) == (changed[0], changed[-1] + 1)
            inner, outer = axis.core(lo, hi)
            assert 0 <= inner < outer <= axis.m
    for lo in range(axis.m):
        for hi in range(lo + 1, axis.m + 1):
            used = table[:, lo:hi].any(1).nonzero().flatten().tolist()
            a, b, _ = axis.needs(lo, hi)
            assert 0 <= a < b <= 11 and all(a <= i < b for i in used)


@pytest.mark.parametrize("number", range(len(windows())))
def test_an_axis_is_written_as_plain_data_and_knows_how_long_other_maps_become(number: int) -> None:
    axis, run = windows()[number]
    read = from_data(json.loads(json.dumps(as_data(axis))), axis.n, axis.m)
    for lo in range(axis.m):
        for hi in range(lo + 1, axis.m + 1):
            assert read.needs(lo, hi) == axis.needs(lo, hi)
    for lo in range(axis.n):
        for hi in range(lo + 1, axis.n + 1):
            assert read.touches(lo, hi) == axis.touches(lo, hi) and read.core(lo, hi) == axis.core(lo, hi)
    for count in range(7, 15):
        assert read.length(count) == axis.length(count) == run(torch.zeros(1, 1, count)).shape[2]


def test_enlargements_by_whole_numbers_are_plain_data_and_others_are_refused() -> None:
    for by in (1, 2, 3, 4):
        rule = find_linear(8, 8 * by)
        assert rule.pace == Fraction(1, by) and rule.length(5) == 5 * by
        read = from_data(as_data(rule), 8, 8 * by)
        assert all(read.needs(o, o + 1)[:2] == rule.needs(o, o + 1)[:2] for o in range(8 * by))
        picked = Picked(8, [o // by for o in range(8 * by)])
        assert (picked.pace, picked.length(5)) == (Fraction(1, by), 5 * by)
    fewer = Picked(9, [0, 3, 6])
    assert (fewer.pace, fewer.length(6)) == (Fraction(3), 2)
    assert from_data(as_data(fewer), 9, 3).needs(1, 2) == fewer.needs(1, 2)
    for odd in (Picked(8, [o * 8 // 11 for o in range(11)]), find_linear(8, 11)):
        assert odd.pace is None
        with pytest.raises(ValueError, match="of 8 to 11 pixels is not a whole number of times larger or smaller"):
            as_data(odd)


def find_linear(n: int, m: int) -> Weighted:
    return linear_axis(n, m, False, None, torch.float32)


def masks() -> list[Mask]:
    chance = np.random.default_rng(0)
    found = [chance.random((40, 52)) < share for share in (0.002, 0.02, 0.5)]
    for _ in range(6):
        mask = np.zeros((40, 52), bool)
        for _ in range(int(chance.integers(1, 6))):
            top, left = chance.integers(0, 34), chance.integers(0, 44)
            mask[top : top + chance.integers(1, 9), left : left + chance.integers(1, 9)] = True
        found.append(mask)
    return found


@pytest.mark.parametrize("number", range(len(masks())))
@pytest.mark.parametrize("slack", [1.0, 30.0, 1e9])
def test_rectangles_and_tiles_cover_a_mask(number: int, slack: float) -> None:
    mask = masks()[number]
    rects = split(mask, slack)
    assert (paint(rects, *mask.shape) >= mask).all() and len(rects) <= 64
    assert all(not within(a, b) for i, a in enumerate(rects) for b in rects[i + 1 :])
    box = split(mask, 1e9)
    assert len(box) == 1 and sum(map(area, rects)) + slack * (len(rects) - 1) <= area(box[0])
    again = tidy(rects, *mask.shape, slack)
    assert (paint(again, *mask.shape) >= mask).all() and len(again) <= len(rects)
    for size in (3, 8):
        cells = tiles(mask, size)
        assert (paint(cells, *mask.shape) >= mask).all() and all(mask[t:b, le:r].any() for t, b, le, r in cells)


def test_two_far_edits_are_two_rectangles_and_near_ones_are_one() -> None:
    mask = paint([(1, 5, 1, 5), (30, 36, 40, 50)], 40, 52)
    assert split(mask, 50.0) == [(1, 5, 1, 5), (30, 36, 40, 50)]
    assert split(paint([(1, 5, 1, 5), (6, 9, 1, 5)], 40, 52), 50.0) == [(1, 9, 1, 5)]
    assert split(np.zeros((4, 4), bool), 1.0) == []
    assert tidy([(0, 4, 0, 4), (2, 6, 0, 4), (30, 31, 40, 41)], 40, 52, 10.0) == [(0, 6, 0, 4), (30, 31, 40, 41)]
    assert areas.covered([(0, 4, 0, 4), (2, 6, 0, 4)], 40, 52) == 24


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (ResnetGenerator(4, 6), (3, 64, 64)),
        (UnetGenerator(4, 5), (3, 64, 64)),
        (SpadeGenerator(5, 8, 3), (5, 64, 64)),
        (nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(9))), (3, 32, 32)),
    ],
)
def test_a_block_is_a_few_convolutions_and_most_is_not_kept(network: nn.Module, shape: tuple[int, ...]) -> None:
    graph = trace(network.eval(), (torch.randn(1, *shape),), frozen=True)
    kept = choose_kept(graph)
    blocks = make_blocks(graph, kept)
    counts = [sum(value.rule is not None and value.rule.heavy for value in block.members) for block in blocks]
    total = sum(value.rule is not None and value.rule.heavy for value in graph.values)
    assert sum(counts) == total  # nothing is computed in two blocks
    assert max(counts) <= 12 and len(blocks) >= total // 12
    assert sum(graph.values[i].bytes for i in kept) < 0.5 * sum(value.bytes for value in graph.values)


def test_what_a_block_computes_does_not_depend_on_where_it_lies() -> None:
    graph = trace(ResnetGenerator(4, 1).eval(), (torch.randn(1, 3, 64, 64),), frozen=True)
    block = make_blocks(graph, choose_kept(graph))[-1]
    one, two, border = block.walk(0, 24, 32), block.walk(0, 32, 40), block.walk(0, 0, 8)
    assert one.kind == two.kind != border.kind
    assert one.leaves != two.leaves


def test_a_scattered_edit_is_computed_in_tiles_and_a_big_one_dense() -> None:
    network = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1)).eval()
    x = torch.randn(1, 8, 96, 96)
    engine = make_incremental(network, x, mode="exact")
    # Costs of a machine where a call is cheap and a tile as good as a rectangle: then tiles win where they cover less.
    engine._machine = type(engine._machine)(1e-11, 1e-11, 1e-11, 1e-9, 1.0)
    engine._slack = {index: 1e9 for index in engine._slack}
    engine.update(x)
    scattered, big = x.clone(), x.clone()
    for n in range(5):
        scattered[:, :, 3 + 20 * n, 90 - 20 * n] += 1
    big[:, :, 2:, 3:] += 1
    scattered_update = engine.update(scattered)
    assert scattered_update.how == {"conv2d_1": "dense"}  # as one rectangle, for one more would cost 1e9 pixels
    engine._slack = {index: 0.0 for index in engine._slack}
    engine.undo()
    update = engine.update(scattered)
    assert update.how["conv2d_1"] in ("5 rectangles", "14 tiles")
    assert update.macs < 0.2 * scattered_update.macs
    with torch.no_grad():
        assert torch.allclose(update.output, network(scattered), atol=1e-5)
        update = engine.update(big)
        assert update.how == {"conv2d_1": "dense"} and torch.allclose(update.output, network(big), atol=1e-5)


def test_a_swap_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = Maps()
    for index in (0, 1):
        maps.replace(index, torch.full((1, 1, 4, 4), float(index)), None)
    step = Step([Old(7, None, torch.zeros(1)), Old(0, (0, 2, 0, 2), torch.ones(1, 1, 2, 2) * 9)])
    with pytest.raises(KeyError):
        maps.swap(step)  # there is no map 7
    assert torch.equal(maps[0], torch.zeros(1, 1, 4, 4)) and maps.bytes == 128


def test_overlapping_writes_are_taken_back_in_the_order_of_their_making() -> None:
    for way in ("swap", "take back"):
        maps, step = Maps(), Step()
        before = torch.arange(16.0).view(1, 1, 4, 4)
        maps.replace(0, before.clone(), None)
        maps.write(0, (0, 3, 0, 3), torch.full((1, 1, 3, 3), 50.0), step)
        maps.write(0, (1, 4, 1, 4), torch.full((1, 1, 3, 3), 60.0), step)
        after = maps[0].clone()
        if way == "swap":
            inverse = maps.swap(step)
            assert torch.equal(maps[0], before)
            maps.swap(inverse)
            assert torch.equal(maps[0], after)
        maps.take_back(step)
        assert torch.equal(maps[0], before)


def test_the_journal_counts_its_bytes() -> None:
    journal, chance = Journal(5000), random.Random(0)
    for _ in range(200):
        done = chance.random()
        if done < 0.5:
            size = chance.randint(1, 300)
            journal.note(Step([Old(0, None, torch.zeros(size, dtype=torch.uint8))]))
        elif done < 0.8 and journal.can_undo:
            journal.back(journal.position - 1, lambda step: step, lambda step: None)
        elif journal.can_redo:
            journal.forward(lambda step: step)
        assert journal.bytes == sum(step.bytes for step, _ in (*journal._done, *journal._undone)) <= 5000


@pytest.mark.alone
def test_a_small_edit_is_much_faster_than_the_full_pass() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(64, 64, 3, padding=1).eval()
    x = torch.randn(1, 64, 256, 256).contiguous(memory_format=torch.channels_last)
    mask = np.zeros((256, 256), bool)
    mask[100:157, 100:157] = True  # 5 %
    y = x.clone()
    y[:, :, torch.from_numpy(mask)] += 1
    engine = make_incremental(network, x, mode="exact")
    engine.update(x)

    def ratio() -> None:
        full = min(engine_full() for _ in range(3))
        parts = min(engine.update(picture, mask).seconds for picture in (y, x, y, x))
        assert full / parts > 4, (full, parts)

    def engine_full() -> float:
        engine.reset()
        return engine.update(x).seconds

    best_of_three(ratio)


def test_costs_are_measured_once_and_make_sense() -> None:
    machine = measured(torch.device("cpu"), torch.float32)
    assert machine is measured(torch.device("cpu"), torch.float32)
    assert 0 < machine.mac_s < machine.element_s <= machine.kept_s < machine.call_s
    assert 1 <= machine.tile_factor <= 4


@pytest.mark.parametrize("remembered", [0, 1, 5, 20])
def test_what_is_remembered_of_blocks_may_be_forgotten_at_any_time(
    monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    """Tiles are batched by how they are computed; forgetting between two of them must not mix unlike ones."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 5, 2, padding=2)).eval()
    x = torch.randn(1, 3, 121, 118)
    y = x.clone()
    for top, left in ((0, 0), (60, 50), (118, 115), (0, 70), (90, 0)):
        y[:, :, top : top + 3, left : left + 3] += 1
    engine = make_incremental(network, x, mode="exact", plan="tiles")
    monkeypatch.setattr("effvision.host.edit_blocks.REMEMBERED", remembered)
    monkeypatch.setattr(engine, "_slack", dict.fromkeys(engine._slack, 0.0))  # whatever a call costs here
    engine.update(x)
    with torch.no_grad():
        update = engine.update(y)
        assert torch.allclose(update.output, network(y), atol=1e-5)
    assert all("tiles" in how for how in update.how.values())
    assert all(len(block._walks) <= remembered + 1 for block in engine._blocks)
