"""What work costs torch on this machine, measured once per process: enough to choose between dense, rectangles and tiles."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F

from effvision.host.edit_costs import Machine

__all__ = ["measured"]


def _best(run: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of some runs, after one that warms up."""
    run()
    spent = []
    for _ in range(times):
        start = time.thread_time()  # what other programs do meanwhile does not count; a wait for a device does
        run()
        spent.append(time.thread_time() - start)
    return min(spent)


@lru_cache(maxsize=8)
def _measure(device: str, dtype: torch.dtype, threads: int) -> Machine:
    with torch.no_grad():
        weight = torch.ones(64, 64, 3, 3, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
        x = torch.ones(1, 64, 66, 66, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
        cells = torch.ones(64, 64, 10, 10, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
        small = x[:, :, :4, :4]

        def timed(run: Callable[[], object]) -> float:
            def settled() -> None:
                run()
                if device.startswith("cuda"):
                    torch.cuda.synchronize(device)

            return _best(settled, 3)

        macs = 64 * 64 * 9 * 64 * 64
        dense = timed(lambda: F.conv2d(x, weight))
        tiled = timed(lambda: F.conv2d(cells, weight))
        passed = timed(lambda: x + 1)
        called = timed(lambda: small + 1)
        held: list[torch.Tensor] = []
        kept = timed(lambda: held.append(x.clone()))
    element_s = max(passed - called, passed / 10) / x.numel()
    kept_s = max(kept / x.numel(), element_s)
    return Machine(dense / macs, element_s, kept_s, called + 5e-6, min(max(tiled / dense, 1.0), 4.0))


def measured(device: torch.device, dtype: torch.dtype) -> Machine:
    """Return the costs of a device, floating dtype and number of threads; the first call takes about 50 ms."""
    dtype = dtype if dtype.is_floating_point else torch.float32
    return _measure(str(device), dtype, torch.get_num_threads())
