"""Pieces of one job shared between threads, each of which computes alone.

PyTorch splits every operator between its threads and lets them meet again at its end. Where a job is thousands of operators of
a few microseconds, meeting takes as long as working, and one core that is busy with something else holds up all of them. Here
the job is cut instead: each thread takes a piece, does all of it with one thread, and takes the next.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

__all__ = ["crew_size", "share_out"]

Piece = TypeVar("Piece")


class _Crews:
    """A pool of threads for each number of them that was asked for; made when first used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._here = threading.local()

    def forget(self) -> None:
        """Of a process made by `fork`: its parent's threads are not there."""
        self.__init__()  # type: ignore[misc]

    @property
    def inside(self) -> bool:
        """Whether the calling thread is one of a crew."""
        return getattr(self._here, "inside", False)

    def of(self, size: int) -> ThreadPoolExecutor:
        """The pool of `size` threads."""
        with self._lock:
            if size not in self._pools:
                met = threading.Barrier(size + 1)
                pool = ThreadPoolExecutor(size, "effvision", initializer=self._alone, initargs=(met,))
                try:
                    for _ in range(size):
                        pool.submit(int)
                    met.wait()
                except BaseException:  # no more threads to be had, or Ctrl-C
                    met.abort()  # or those that are there would wait for ever, and the process for them
                    pool.shutdown(wait=False)
                    raise
                finally:
                    # what a thread sets is also what threads started later begin with: give them what this one has
                    torch.set_num_threads(torch.get_num_threads())
                self._pools[size] = pool
            return self._pools[size]

    def _alone(self, met: threading.Barrier) -> None:
        self._here.inside = True
        torch.get_num_threads()  # or the first operator would set what the process has
        torch.set_num_threads(1)
        met.wait()


_crews = _Crews()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_crews.forget)


def crew_size(pieces: int) -> int:
    """How many threads share `pieces` of work: as many as PyTorch has in the calling thread, and no more than pieces."""
    return 1 if _crews.inside else max(1, min(torch.get_num_threads(), pieces))


def share_out(pieces: Sequence[Piece], work: Callable[[int, Piece], None]) -> None:
    """Call `work(worker, piece)` for each piece, without gradients, on `crew_size(len(pieces))` threads.

    Args:
        pieces: In no order that matters; whoever is free takes the next.
        work: Called with a number from 0 to the size of the crew, the same never twice at once, so that it can have room of its
            own, and with one of the pieces.

    Raises:
        Exception: what `work` raised first, after all threads have ended.
    """
    size = crew_size(len(pieces))
    if size == 1:
        with torch.no_grad():
            for piece in pieces:
                work(0, piece)
        return
    rest, lock, inference = iter(pieces), threading.Lock(), torch.is_inference_mode_enabled()

    def take(worker: int) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            while True:
                with lock:
                    piece = next(rest, None)
                if piece is None:
                    return
                work(worker, piece)

    pool = _crews.of(torch.get_num_threads())
    futures: list[Future[None]] = [pool.submit(take, worker) for worker in range(size)]
    wait(futures)
    for future in futures:
        future.result()
