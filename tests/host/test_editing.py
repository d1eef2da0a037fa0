"""Editors, whatever computes: the plain one in NumPy, and the engine's behind the same methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effvision.errors import RangeError, StateError
from effvision.host.editing import Arrays, Editor, WholeEditor

Make = Callable[[int], Editor]
Array = NDArray[np.float32]


def smooth(x: Array) -> Array:
    """The mean of each pixel and its right neighbour, (1, 1, H, W); 0 beyond the border."""
    beside = np.concatenate([x[..., 1:], np.zeros_like(x[..., :1])], axis=-1)
    return np.asarray((x + beside) / 2)


def plain(journal_bytes: int) -> Editor:
    return WholeEditor(lambda arrays: smooth(arrays["x"]), shape=(1, 1, 6, 8), macs=100.0, journal_bytes=journal_bytes)


def engine(journal_bytes: int) -> Editor:
    torch = pytest.importorskip("torch")
    from effvision.incremental import make_incremental
    from effvision.incremental.arrays import ArrayEditor

    network = torch.nn.Conv2d(1, 1, (1, 2), bias=False)
    network.weight.data[:] = 0.5
    padded = torch.nn.Sequential(torch.nn.ZeroPad2d((0, 1, 0, 0)), network).eval()
    made = make_incremental(padded, torch.zeros(1, 1, 6, 8), mode="exact", journal_bytes=journal_bytes)
    return ArrayEditor(made, ["x"], torch.device("cpu"))


@pytest.fixture(params=[plain, engine])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


def pictures(count: int) -> list[Array]:
    found = [np.zeros((1, 1, 6, 8), np.float32)]
    for step in range(1, count):
        found.append(found[-1].copy())
        found[-1][0, 0, step % 6, (3 * step) % 8] = step
    return found


def given(x: Array) -> Arrays:
    return {"x": x}


def test_every_update_is_the_whole_pass(make: Make) -> None:
    editor = make(1 << 20)
    for number, x in enumerate(pictures(4)):
        done = editor.update(given(x))
        np.testing.assert_allclose(done.output, smooth(x), atol=1e-6)
        assert done.dense_macs == editor.dense_macs > 0 and 0 < done.macs <= done.dense_macs
        assert editor.can_undo == number and len(done.changed) == 1
        rows, columns = np.nonzero(smooth(x)[0, 0] != smooth(pictures(4)[max(0, number - 1)])[0, 0])
        (top, bottom, left, right), *_ = done.changed[0]
        assert all(top <= row < bottom and left <= column < right for row, column in zip(rows, columns, strict=True))


def test_the_same_input_is_no_step(make: Make) -> None:
    editor, (x, *_) = make(1 << 20), pictures(1)
    editor.update(given(x))
    done = editor.update(given(x.copy()))
    assert done.macs == 0 and done.changed == ((),) and editor.can_undo == 0


def test_steps_go_back_and_forth_bit_for_bit(make: Make) -> None:
    editor = make(1 << 20)
    outputs = [editor.update(given(x)).output.copy() for x in pictures(4)]
    mark = editor.checkpoint()
    for output in reversed(outputs[:-1]):
        assert np.array_equal(editor.undo(), output)
    for output in outputs[1:]:
        assert np.array_equal(editor.redo(), output)
    assert np.array_equal(editor.undo(to=mark - 2), outputs[1]) and editor.can_redo == 2
    editor.commit()
    assert (editor.can_undo, editor.can_redo, editor.journal_bytes) == (0, 0, 0)
    for refused in (editor.undo, editor.redo, lambda: editor.undo(to=mark)):
        with pytest.raises(StateError, match="hint:"):
            refused()
    assert editor.checkpoint() == mark - 2
    editor.reset()
    with pytest.raises(StateError, match="no picture"):
        editor.checkpoint()


def test_the_journal_keeps_its_limit(make: Make) -> None:
    unlimited = make(1 << 20)
    for x in pictures(8):
        unlimited.update(given(x))
    limit = unlimited.journal_bytes // 2
    editor = make(limit)
    for x in pictures(8):
        editor.update(given(x))
        assert editor.journal_bytes <= limit
    assert 0 < editor.can_undo < 7
    for _ in range(editor.can_undo):
        editor.undo()
    with pytest.raises(StateError, match="forgotten"):
        editor.undo()
    with pytest.raises(RangeError):
        make(-1)


def test_what_is_kept_can_be_taken_up_by_another(make: Make) -> None:
    one, other = make(1 << 20), make(1 << 20)
    first, second, third = pictures(3)
    assert one.kept() == {}
    one.update(given(first))
    output = one.update(given(second)).output.copy()  # the next update writes into it
    assert np.array_equal(
        other.restore(given(second), {name: array.copy() for name, array in one.kept().items()}), output
    )
    assert other.update(given(second)).macs == 0 and other.can_undo == 0
    assert np.array_equal(other.update(given(third)).output, one.update(given(third)).output)
    assert np.array_equal(other.undo(), output)
    for wrong in ({}, {"other": output}, {name: array[..., 1:] for name, array in one.kept().items()}):
        with pytest.raises(StateError):
            make(1 << 20).restore(given(second), wrong)


def test_inputs_are_not_kept(make: Make) -> None:
    editor, x = make(1 << 20), pictures(1)[0]
    editor.update(given(x))
    before: Any = editor.update(given(x)).output.copy()
    x[:] = 5
    assert editor.update(given(x)).macs > 0
    assert np.array_equal(editor.undo(), before)
