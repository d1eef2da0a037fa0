"""`State`: streams join, part and are copied without touching each other, in numpy and in torch alike."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effvision import State
from effvision.errors import EffvisionError, StateError

FUZZ = settings(max_examples=60, deadline=None, derandomize=True, database=None)
KINDS = pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])


def _filled(shape: tuple[int, ...], start: float = 0.0) -> np.ndarray:
    return np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)


def _state(kind: Any, batch: int = 3, start: float = 0.0) -> State:
    return State(
        {
            "a": kind(_filled((batch, 2), start)),
            "b": kind(_filled((batch, 2, 3), start + 100)),
        }
    )


def _same(one: State, other: State) -> None:
    assert list(one) == list(other)
    for name, array in one.numpy().items():
        np.testing.assert_array_equal(array, other.numpy()[name])


@st.composite
def states(draw: st.DrawFn) -> list[State]:
    """A few states of one network: the same names and shapes, any batch, any numbers."""
    shapes = draw(
        st.dictionaries(
            st.text("abc_0", min_size=1, max_size=3),
            arrays.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3),
            min_size=1,
            max_size=3,
        )
    )
    made = []
    for _ in range(draw(st.integers(1, 4))):
        batch = draw(st.integers(1, 3))
        held = {name: draw(arrays.arrays(np.float32, (batch, *shape))) for name, shape in shapes.items()}
        made.append(State(held))
    return made


@KINDS
def test_it_is_a_mapping_of_the_very_arrays_it_was_given_in_their_order(kind: Any) -> None:
    held = {"z": kind(np.zeros((2, 1))), "a": kind(np.zeros((2, 3, 4)))}
    state = State(held)
    assert list(state) == ["z", "a"] and len(state) == 2 and "z" in state
    assert all(state[name] is array for name, array in held.items())
    assert state.batch == 2
    assert state.nbytes == 2 * (1 + 12) * 8
    assert repr(state) == "State(z: (2, 1), a: (2, 3, 4))"
    held.clear()
    assert len(state) == 2


def test_an_empty_state_is_legal() -> None:
    state = State()
    assert (len(state), state.batch, state.nbytes, state.numpy(), state.split()) == (0, 0, 0, {}, [])
    assert len(State.stack([state, State({})])) == 0
    assert len(state.copy()) == 0


@KINDS
def test_a_copy_is_independent_both_ways(kind: Any) -> None:
    state = _state(kind)
    copy = state.copy()
    _same(copy, state)
    assert all(type(copy[name]) is type(state[name]) for name in state)
    state["a"][:] = -1
    copy["b"][:] = -2
    assert (copy["a"] >= 0).all() and (state["b"] >= 0).all()


@KINDS
def test_numpy_gives_copies(kind: Any) -> None:
    state = _state(kind)
    plain = state.numpy()
    assert all(type(array) is np.ndarray and array.dtype == np.float32 for array in plain.values())
    plain["a"][:] = -1
    assert (state["a"] >= 0).all()


@KINDS
def test_rows_are_the_chosen_streams_in_the_order_asked_for_and_independent(kind: Any) -> None:
    state = _state(kind)
    for indices in ([2, 0], (1,), np.array([2, 1, 1]), range(2), []):
        chosen = state.rows(indices)
        for name, array in chosen.numpy().items():
            np.testing.assert_array_equal(array, state.numpy()[name][list(indices)])
        assert chosen.batch == len(list(indices))
    one = state.rows([1])
    one["a"][:] = -1
    assert (state["a"] >= 0).all()


@KINDS
def test_streams_join_and_part_again(kind: Any) -> None:
    one, two = _state(kind, batch=1), _state(kind, batch=2, start=50)
    joined = State.stack([one, two])
    assert joined.batch == 3 and all(type(joined[name]) is type(one[name]) for name in one)
    parts = joined.split()
    assert [part.batch for part in parts] == [1, 1, 1]
    _same(parts[0], one)
    _same(State.stack(parts[1:]), two)
    joined["a"][:] = -1
    assert (one["a"] >= 0).all() and (parts[2]["a"] >= 0).all()


def test_numpy_and_torch_stack_into_torch() -> None:
    joined = State.stack([_state(np.asarray, batch=1), _state(torch.as_tensor, batch=1)])
    assert isinstance(joined["a"], torch.Tensor)
    _same(joined, State.stack([_state(np.asarray, batch=1)] * 2))


@FUZZ
@given(made=states())
def test_stack_then_split_gives_every_stream_back(made: list[State]) -> None:
    joined = State.stack(made)
    assert joined.batch == sum(state.batch for state in made)
    singles = [single for state in made for single in state.split()]
    for got, wanted in zip(joined.split(), singles, strict=True):
        _same(got, wanted)
    _same(State.stack(joined.split()), joined)


@FUZZ
@given(made=states(), draw=st.data())
def test_rows_of_a_stack_equal_a_stack_of_rows(made: list[State], draw: st.DataObject) -> None:
    joined = State.stack(made)
    order = draw.draw(st.permutations(range(joined.batch)))
    _same(joined.rows(order), State.stack([joined.split()[index] for index in order]))


@FUZZ
@given(made=states())
def test_torch_and_numpy_agree(made: list[State]) -> None:
    tensors = [State({name: torch.from_numpy(array) for name, array in state.items()}) for state in made]
    _same(State.stack(tensors), State.stack(made))
    _same(tensors[0].copy(), made[0].copy())


@pytest.mark.parametrize(
    "held",
    [
        {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))},
        {"a": np.zeros(())},
        {"a": np.zeros(2), "b": np.zeros(())},
    ],
)
def test_arrays_of_different_batches_are_refused(held: dict[str, np.ndarray]) -> None:
    with pytest.raises(StateError, match="the same first axis"):
        State(held)


@pytest.mark.parametrize("held", [{"a": 5}, {"a": [1, 2]}, {"a": None}, {"a": "text"}])
def test_what_are_no_arrays_is_refused(held: Any) -> None:
    with pytest.raises(EffvisionError):
        State(held)


def test_states_of_different_networks_do_not_stack() -> None:
    one = State({"a": np.zeros((1, 2)), "b": np.zeros((1, 2))})
    with pytest.raises(StateError, match=r"\['a', 'b'\] and \['a'\]"):
        State.stack([one, State({"a": np.zeros((1, 2))})])
    with pytest.raises(StateError, match="same network"):  # the order is the order of the graph's inputs
        State.stack([one, State({"b": np.zeros((1, 2)), "a": np.zeros((1, 2))})])
    with pytest.raises(StateError, match=r"`b` is \(1, 2\) .* and \(1, 3\)"):
        State.stack([one, State({"a": np.zeros((1, 2)), "b": np.zeros((1, 3))})])
    with pytest.raises(StateError, match="at least one"):
        State.stack([])


@KINDS
@pytest.mark.parametrize("indices", [[3], [-4], [0, 3], np.array([7])])
def test_rows_that_do_not_exist_are_refused(kind: Any, indices: Any) -> None:
    with pytest.raises(EffvisionError):
        _state(kind).rows(indices)


@KINDS
def test_states_can_be_compared_without_an_error(kind: Any) -> None:
    state = _state(kind)
    assert state == state
    assert isinstance(state == state.copy(), bool) and (state == State()) is False
    assert (state == 5) is False
