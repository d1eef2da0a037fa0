"""The engine that edits a picture with an exported graph: what it remembers, what an error leaves, what it computes."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from edited import Exported, far, numbers
from torch import nn

from effvision.errors import DTypeError, InputError, ModelFileError, RangeError, RuntimeFailure, ShapeError, StateError
from effvision.host.edits import ExportedNetwork
from painters import ResnetGenerator, UnetGenerator

SHAPE = (1, 3, 48, 56)


@pytest.fixture(scope="module")
def exported() -> Exported:
    torch.manual_seed(0)
    return Exported(UnetGenerator(4, 2), (numbers(*SHAPE),))


@pytest.fixture(scope="module")
def normed() -> Exported:
    torch.manual_seed(0)
    return Exported(ResnetGenerator(4, 1), (numbers(*SHAPE),))


@pytest.fixture
def engine(exported: Exported) -> ExportedNetwork:
    made = exported.engine()
    made.update(numbers(*SHAPE))
    exported.runs.clear()
    return made


def painted(picture: np.ndarray, top: int, left: int, size: int = 5) -> np.ndarray:
    found = picture.copy()
    found[:, :, top : top + size, left : left + size] += 1
    return found


def everything(engine: ExportedNetwork) -> dict[str, np.ndarray]:
    """A copy of all that is kept."""
    maps = engine._maps
    assert maps is not None
    inputs = {cell.name: np.array(maps[cell.index]) for cell in engine.cells[0]}
    return {**inputs, **{name: np.array(array) for name, array in engine.kept().items()}}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("plan", ["auto", "rectangles", "tiles", "dense"])
def test_undo_and_redo_restore_every_map_bit_for_bit(exported: Exported, plan: Any) -> None:
    engine = exported.engine(plan=plan)
    now = numbers(*SHAPE)
    engine.update(now)
    states = [everything(engine)]
    for top, left in ((0, 0), (3, 4), (43, 51), (3, 5)):
        now = painted(now, top, left)
        engine.update(now)
        states.append(everything(engine))
        assert not same(states[-1], states[-2])
    for state in reversed(states[:-1]):
        engine.undo()
        assert same(everything(engine), state)
    for state in states[1:]:
        engine.redo()
        assert same(everything(engine), state)
    assert (engine.can_undo, engine.can_redo) == (4, 0)


def test_a_small_edit_gives_the_graph_small_crops_and_no_edit_none(exported: Exported, engine: ExportedNetwork) -> None:
    picture = painted(numbers(*SHAPE), 20, 20, 3)
    update = engine.update(picture)
    whole = exported.engine()
    seen = sum(size for _, size in exported.runs)
    exported.runs.clear()
    whole.update(picture)
    assert 0 < update.computed_fraction < 0.5 and seen < 0.5 * sum(size for _, size in exported.runs)
    exported.runs.clear()
    again = engine.update(picture)
    assert exported.runs == [] and again.computed_fraction == 0 and again.changed == ((),)
    assert engine.can_undo == 1


def test_a_mask_says_where_to_look_and_a_check_finds_what_it_misses(
    exported: Exported, engine: ExportedNetwork
) -> None:
    picture = painted(painted(numbers(*SHAPE), 4, 4), 40, 40)
    mask = np.zeros(SHAPE[2:], np.bool_)
    mask[4:9, 4:9] = True
    with pytest.raises(InputError, match="25 pixels of input `x` changed outside of the mask"):
        engine.update(picture, mask, check=True)
    assert engine.can_undo == 0
    update = engine.update(picture, mask)
    assert engine.changed_mask(update)[40:45, 40:45].sum() == 0
    mask[40:45, 40:45] = True
    assert engine.changed_mask(engine.update(picture, mask, check=True))[42, 42]
    for wrong, kind in ((mask.astype(np.uint8), DTypeError), (mask[:5], ShapeError)):
        with pytest.raises(kind, match="hint: "):
            engine.update(picture, wrong)


def test_inputs_that_do_not_fit_change_nothing(engine: ExportedNetwork) -> None:
    before, picture = everything(engine), numbers(*SHAPE)
    broken = painted(picture, 2, 2)
    broken[0, 0, 3, 3] = np.nan
    cases: list[tuple[Any, type[Exception], str]] = [
        (picture.astype(np.float64), DTypeError, "float64.*\n.*hint: "),
        (picture[:, :, :40], ShapeError, r"\(1, 3, 40, 56\), the network was exported for \(1, 3, 48, 56\)"),
        ((picture, picture), InputError, "2 inputs given, the network takes 1"),
        ({"y": picture}, InputError, "the network takes x; given are y"),
        (broken, RangeError, "1 values that are NaN"),
        (torch.zeros(SHAPE), DTypeError, "Tensor.*\n.*numpy array"),
    ]
    for given, kind, text in cases:
        with pytest.raises(kind, match=text):
            engine.update(given)
        assert same(everything(engine), before) and engine.can_undo == 0


@pytest.mark.parametrize("error", [RuntimeFailure("no memory"), MemoryError(), KeyboardInterrupt()])
def test_a_failure_on_the_way_takes_everything_back(exported: Exported, error: BaseException) -> None:
    calls = []

    def failing(feed: Any, wanted: Any) -> Any:
        calls.append(wanted)
        if len(calls) == 2:
            raise error
        return exported.run(feed, wanted)

    engine = exported.engine("exact", plan="rectangles")
    engine.update(numbers(*SHAPE))
    before = everything(engine)
    engine._run = failing
    expected = RuntimeFailure if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(expected):
        engine.update(painted(numbers(*SHAPE), 20, 20))
    assert len(calls) == 2 and same(everything(engine), before) and engine.can_undo == 0
    engine.update(painted(numbers(*SHAPE), 20, 20))
    assert engine.can_undo == 1


def test_the_journal_forgets_the_oldest_beyond_its_bytes_and_a_commit_all(exported: Exported) -> None:
    engine, now = exported.engine(plan="rectangles", journal_bytes=60_000), numbers(*SHAPE)
    engine.update(now)
    for place in range(12):
        now = painted(now, place, place)
        engine.update(now)
        assert engine.journal_bytes <= 60_000
    assert 0 < engine.can_undo < 12
    with pytest.raises(StateError, match="beyond journal_bytes = 60000"):
        engine.undo(to=0)
    mark = engine.checkpoint()
    engine.update(painted(now, 30, 30))
    engine.undo(to=mark)
    engine.commit()
    assert (engine.can_undo, engine.can_redo, engine.journal_bytes) == (0, 0, 0)
    with pytest.raises(StateError, match="nothing to redo"):
        engine.redo()


def test_a_reset_forgets_the_picture_and_a_restored_one_goes_on(exported: Exported, engine: ExportedNetwork) -> None:
    picture = painted(numbers(*SHAPE), 20, 20)
    engine.update(picture)
    kept = {name: array.copy() for name, array in engine.kept().items()}
    other = exported.engine()
    assert np.array_equal(other.restore({"x": picture}, kept), engine.output)
    for one in (engine, other):
        one.update(painted(picture, 5, 40))
    assert same(everything(engine), everything(other)) and (other.can_undo, engine.can_undo) == (1, 2)
    engine.reset()
    assert engine.kept() == {} and engine.cache_bytes == 0
    for call in (engine.undo, engine.checkpoint, engine.commit, lambda: engine.output):
        with pytest.raises(StateError, match="no picture yet"):
            call()
    name = next(iter(kept))
    for wrong in ({}, {**kept, name: kept[name][:, :1]}, {**kept, name: kept[name].astype(np.float64)}):
        with pytest.raises(StateError):
            engine.restore(picture, wrong)


def test_norms_keep_the_statistics_of_the_first_picture_until_a_reset(normed: Exported) -> None:
    first, second = numbers(*SHAPE), 3 * numbers(*SHAPE, seed=1) + 1
    engine = normed.engine("frozen")
    assert far(engine.update(first).output, normed.dense((first,))) < 1e-5
    assert far(engine.update(second).output, normed.dense((second,))) > 1e-2
    engine.reset()
    assert far(engine.update(second).output, normed.dense((second,))) < 1e-5
    other = normed.engine("frozen")
    other.restore(second, engine.kept())
    for one in (engine, other):
        one.update(painted(second, 9, 9))
    assert same(everything(engine), everything(other))


def test_modes_and_options_that_cannot_be_are_refused_with_the_reason(exported: Exported, normed: Exported) -> None:
    for made, mode, text in (
        (exported, "reference", "needs the network itself.*\n.*runtime='torch'"),
        (exported, "fast", "one of local, exact, frozen"),
        (normed, "exact", "instance or group norms.*\n.*mode 'frozen'"),
    ):
        with pytest.raises(InputError, match=text):
            made.engine(mode)
    with pytest.raises(InputError, match="plan 'all' is unknown"):
        exported.engine(plan="all")
    for options in ({"halo": -1}, {"journal_bytes": -1}):
        with pytest.raises(RangeError):
            exported.engine(**options)


def test_a_damaged_description_is_refused(exported: Exported) -> None:
    data = json.loads(json.dumps(exported.data))
    ExportedNetwork(data, exported.run)
    for damage in (
        lambda d: d.pop("blocks"),
        lambda d: d["blocks"][0]["members"][0].pop(),
        lambda d: d["blocks"][0]["leaves"].append(999),
        lambda d: d["blocks"][1]["members"][0][4][0].__setitem__(0, ["?"]),
        lambda d: d.update(inputs=None),
    ):
        broken = copy.deepcopy(data)
        damage(broken)
        with pytest.raises(ModelFileError, match="damaged"):
            ExportedNetwork(broken, exported.run)
    with pytest.raises(ModelFileError, match="pip install --upgrade"):
        ExportedNetwork({**data, "format": 2}, exported.run)


def test_a_crop_is_the_smallest_on_the_grid_that_holds_what_is_needed() -> None:
    """Every part of every block: the crop reaches to the picture's border, or past all that the part is computed from."""
    torch.manual_seed(0)
    exported = Exported(ResnetGenerator(4, 1, nn.BatchNorm2d), (numbers(1, 3, 44, 52),))
    for block in exported.engine()._blocks:
        for axis in (0, 1):
            size = block.target.size[axis]
            for lo in range(0, size, 3):
                for hi in (lo + 1, min(lo + 7, size), size):
                    walk, (need, _) = block.walk(axis, lo, hi), block.needs(axis, lo, hi)
                    for leaf, (a, b) in zip(block.leaves, walk.leaves, strict=True):
                        unit, first, last = block.grids[axis].units[leaf.index], *need[leaf.index]
                        assert unit and a % unit == 0 and (b % unit == 0 or b == leaf.size[axis])
                        assert a <= first and b >= last
                        assert a >= first - 4 * unit - 4 and b <= last + 4 * unit + 4
                    assert walk.skip >= 0 and walk.skip + hi - lo <= walk.lengths[-1]


def test_the_engine_needs_no_torch() -> None:
    code = "import effvision.host.edits, effvision.runtime.edits, sys; assert not {'torch', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
