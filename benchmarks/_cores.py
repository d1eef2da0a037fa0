"""How long a cache line takes from one core to another and back: whether two cores share a cache right now.

Measured because it decides what a second thread is worth. On a virtual machine the host moves the two virtual cores about.
While they share a cache a round trip takes some 60 to 250 ns; while they do not, 380 to 750 ns, and a network of many small
operators then runs no faster on two threads than on one, although a large matrix product still does.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

__all__ = ["round_trip_ns"]

_PROGRAM = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

enum { TRIPS = 20000 };
static _Alignas(128) atomic_int ball;

static void pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

static void *answer(void *core) {
    pin(*(int *)core);
    for (int i = 0; i < TRIPS; i++) {
        while (atomic_load_explicit(&ball, memory_order_acquire) != 2 * i + 1) {}
        atomic_store_explicit(&ball, 2 * i + 2, memory_order_release);
    }
    return 0;
}

double round_trip_ns(int first, int second) {
    cpu_set_t before;
    struct timespec a, b;
    pthread_t other;
    sched_getaffinity(0, sizeof before, &before);
    ball = 0;
    pin(first);
    pthread_create(&other, 0, answer, &second);
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < TRIPS; i++) {
        atomic_store_explicit(&ball, 2 * i + 1, memory_order_release);
        while (atomic_load_explicit(&ball, memory_order_acquire) != 2 * i + 2) {}
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    pthread_join(other, 0);
    sched_setaffinity(0, sizeof before, &before);
    return ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / TRIPS;
}
"""


def round_trip_ns() -> int | None:
    """Return the median of five round trips between the first two cores this process may use, in nanoseconds.

    None where it cannot be measured: no Linux, no C compiler, or one core.
    """
    if not hasattr(os, "sched_getaffinity") or len(cores := sorted(os.sched_getaffinity(0))) < 2:
        return None
    library = _library()
    if library is None:
        return None
    return round(sorted(library.round_trip_ns(cores[0], cores[1]) for _ in range(5))[2])


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "cores.c"), Path(folder, "cores.so")
        source.write_text(_PROGRAM, encoding="utf-8")
        command = [compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(target), "-lpthread"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
        library = ctypes.CDLL(str(target))
    library.round_trip_ns.restype = ctypes.c_double
    return library
