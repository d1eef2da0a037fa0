"""Pieces shared between threads: each once, by whom, and what stays as it was."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import pytest
import torch

from effvision.ops.crew import _Crews, crew_size, share_out


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_piece_is_worked_on_once(threads: int) -> None:
    done: list[int] = []
    share_out(range(100), lambda worker, piece: done.append(piece))
    assert sorted(done) == list(range(100))


def test_workers_of_one_number_never_work_at_once(threads: int) -> None:
    busy = [threading.Lock() for _ in range(threads)]

    def work(worker: int, piece: int) -> None:
        assert busy[worker].acquire(blocking=False)
        torch.ones(64, 64) @ torch.ones(64, 64)
        busy[worker].release()

    share_out(range(50), work)


def test_a_crew_is_no_larger_than_its_work(threads: int) -> None:
    assert [crew_size(pieces) for pieces in (0, 1, 2, 100)] == [1, 1, min(2, threads), threads]


def test_each_piece_has_one_thread_and_no_gradient(threads: int) -> None:
    seen: set[tuple[int, bool]] = set()
    weight = torch.ones(2, 2, requires_grad=True)
    inside = threads if threads == 1 else 1
    share_out(range(20), lambda worker, piece: seen.add((torch.get_num_threads(), (weight @ weight).requires_grad)))
    assert seen == {(inside, False)}


def test_threads_outside_keep_their_number(threads: int) -> None:
    share_out(range(20), lambda worker, piece: None)
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == threads
    assert later == [threads]


def test_a_piece_may_write_into_a_tensor_of_inference_mode(threads: int) -> None:
    with torch.inference_mode():
        out = torch.zeros(40)
        share_out(range(40), lambda worker, piece: out[piece : piece + 1].add_(piece))
    assert out.tolist() == list(range(40))


def test_work_inside_of_work_is_done_where_it_stands(threads: int) -> None:
    found: list[tuple[int, int]] = []

    def outer(worker: int, piece: int) -> None:
        share_out(range(3), lambda inner, small: found.append((piece, small)))

    share_out(range(8), outer)
    assert sorted(found) == [(piece, small) for piece in range(8) for small in range(3)]


def test_an_error_comes_out_once_all_have_ended(threads: int) -> None:
    done: list[int] = []

    def work(worker: int, piece: int) -> None:
        if piece == 3:
            raise ValueError("piece 3")
        done.append(piece)

    with pytest.raises(ValueError, match="piece 3"):
        share_out(range(6), work)
    assert set(done) <= {0, 1, 2, 4, 5}
    share_out(range(6, 9), lambda worker, piece: done.append(piece))
    assert {6, 7, 8} <= set(done)


def test_a_crew_that_cannot_start_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    crews, start, before = _Crews(), threading.Thread.start, set(threading.enumerate())

    def refused(thread: threading.Thread) -> None:
        if set(threading.enumerate()) - before:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="start new thread"):
            crews.of(3)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    assert list(crews.of(3).map(abs, [-1, 2])) == [1, 2]


def test_callers_in_several_threads_share_a_crew(threads: int) -> None:
    done: list[int] = []
    callers = [
        threading.Thread(target=share_out, args=(range(at, at + 20), lambda worker, piece: done.append(piece)))
        for at in (0, 20, 40)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(done) == list(range(60))


def _in_child(queue: multiprocessing.SimpleQueue[list[int]]) -> None:
    done: list[int] = []
    share_out(range(10), lambda worker, piece: done.append(piece))
    queue.put(sorted(done))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_a_forked_process_makes_its_own_crew(threads: int) -> None:
    share_out(range(10), lambda worker, piece: None)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.SimpleQueue[list[int]] = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    child.join(20)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert queue.get() == list(range(10))
