"""What every benchmark shares: the one limit of this machine, interleaved rounds, counted work, and how results are told.

The limit is the rate of fp32 `torch.mm` 1024x1024 with as many threads as everything else, measured in the same rounds.
`floor_ratio` is the median time of a step over the time its counted multiply-adds would take at the median rate.
"""

from __future__ import annotations

import os

THREADS = 2
os.environ["OPENBLAS_NUM_THREADS"] = str(THREADS)  # read once, when NumPy is first imported

import argparse
import contextlib
import gc
import hashlib
import json
import operator
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from _cores import round_trip_ns
from torch import Tensor, nn

__all__ = [
    "GEMM",
    "THREADS",
    "Contender",
    "DataFile",
    "Figure",
    "Times",
    "count_multiply_adds",
    "default_data",
    "describe",
    "floor_ratio",
    "gemm",
    "gemm_rate",
    "in_fresh_process",
    "interleave",
    "main",
    "parser",
    "resident_mb",
    "show",
    "use_threads",
]

GEMM = "torch.mm 1024x1024"
_GEMM_SIZE = 1024
_FAR_NS = 300  # see _cores.py
_BUSY = 0.5  # processes waiting for a core, on average over the last minute
_PACKAGES = ("effvision", "onnxruntime", "onnx", "numpy", "opencv-python")
_HOLDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    "is": operator.eq,
}
T = TypeVar("T")


# -- timing ----------------------------------------------------------------------------------------------------------------


def use_threads() -> None:
    """Give PyTorch the threads everything else here gets."""
    torch.set_num_threads(THREADS)


@dataclass(frozen=True)
class Contender:
    """Something to time: called `settle` times untimed, then `repeats` times, in every round.

    The untimed calls take the caches back and let the threads of the contender before fall asleep: both libraries spin for
    a while after their last operator.
    """

    run: Callable[[], object]
    repeats: int
    settle: int = 1


@dataclass(frozen=True)
class Times:
    """Seconds per call: the median of each contender in each round."""

    rounds: Mapping[str, Sequence[float]]

    def median_s(self, name: str) -> float:
        """Median over the rounds."""
        return statistics.median(self.rounds[name])

    def ratio(self, over: str, under: str) -> float:
        """Median over the rounds of each round's own ratio: a slow spell of the machine falls on both sides."""
        pairs = zip(self.rounds[over], self.rounds[under], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return milliseconds: median, fastest and slowest round."""
        return {
            name: {
                "median_ms": round(1e3 * statistics.median(times), 3),
                "fastest_ms": round(1e3 * min(times), 3),
                "slowest_ms": round(1e3 * max(times), 3),
            }
            for name, times in self.rounds.items()
        }


def interleave(contenders: Mapping[str, Contender], *, rounds: int) -> Times:
    """Time the contenders side by side, each in every round, in an order that rotates and turns round."""
    names = list(contenders)
    found: dict[str, list[float]] = {name: [] for name in names}
    for index in range(-1, rounds):  # round -1 warms up and is thrown away
        start = index % len(names)
        order = names[start:] + names[:start]
        for name in order if index % 2 else reversed(order):
            seconds = _time(contenders[name])
            if index >= 0:
                found[name].append(seconds)
    return Times(found)


def _time(contender: Contender) -> float:
    for _ in range(contender.settle):
        contender.run()
    times = []
    gc.disable()
    try:
        for _ in range(contender.repeats):
            started = time.perf_counter()
            contender.run()
            times.append(time.perf_counter() - started)
    finally:
        gc.enable()
    return statistics.median(times)


def gemm() -> Contender:
    """The machine's limit as a contender; put it among the others under the name `GEMM`."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(_GEMM_SIZE, _GEMM_SIZE, generator=generator) for _ in range(2))
    out = torch.empty(_GEMM_SIZE, _GEMM_SIZE)

    def run() -> Tensor:
        with torch.inference_mode():
            return torch.mm(a, b, out=out)

    return Contender(run, repeats=5)


def gemm_rate(times: Times) -> float:
    """Floating-point operations per second of the limit; a multiply-add is two."""
    return 2.0 * _GEMM_SIZE**3 / times.median_s(GEMM)


def floor_ratio(times: Times, name: str, multiply_adds: int) -> float:
    """Median time of `name` over the time its multiply-adds would take at the median rate of the limit."""
    return times.median_s(name) / (2.0 * multiply_adds / gemm_rate(times))


# -- counting --------------------------------------------------------------------------------------------------------------


def count_multiply_adds(network: nn.Module, run: Callable[[], object]) -> int:
    """Count the multiply-adds of every convolution and linear layer that `run` passes through; biases are not counted.

    Raises:
        TypeError: a layer with weights of another kind was called, which would be missed in silence.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif not isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            raise TypeError(f"no rule counts the multiply-adds of {type(module).__name__}")

    layers = [module for module in network.modules() if list(module.parameters(recurse=False))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return total


def resident_mb() -> float:
    """Memory of this process after a collection, in MB: resident now on Linux, the largest so far elsewhere."""
    gc.collect()
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * resource.getpagesize() / 1e6
    return peak_mb()


def peak_mb() -> float:
    """The most memory this process had at once, in MB.

    On Linux from the process's own account: `ru_maxrss` of a process that was started by another counts the other's memory too.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a module's function in a process of its own, started anew."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# -- input data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataFile:
    """A public file below the data folder.

    Attributes:
        place: Path below the folder.
        address: Where anybody gets it.
        sha256: Of the copy the published figures were measured with.
        note: How that copy differs from the one at `address`.
    """

    place: str
    address: str
    sha256: str
    note: str = ""

    def find(self, folder: Path) -> Path | None:
        """Return the file and say which it is; without it, say where it comes from."""
        path = folder / self.place
        if not path.is_file():
            print(
                f"no {path}: generated input is used, and the keys that depend on it end in _synthetic\n"
                f"  get it from {self.address}\n  and put it there, or give --data DIR; SHA-256 of the copy used here: "
                f"{self.sha256}{f' ({self.note})' if self.note else ''}"
            )
            return None
        same = hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256
        print(f"input: {path} ({'the copy used before' if same else 'not the copy used before: another SHA-256'})")
        return path


def default_data() -> Path:
    """EFFVISION_SHARED/data, or shared/data beside the repository."""
    return Path(os.environ.get("EFFVISION_SHARED") or Path(__file__).resolve().parents[2] / "shared") / "data"


# -- telling ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One key of a benchmark.

    Attributes:
        key: Its name, as in the contract.
        value: What was measured.
        limit: A comparison (`<=`, `<`, `>=`, `is`) and what to compare with; None if only printed.
        note: What the figure is, in one line.
        of: The family it belongs to, where a script has one value per family.
    """

    key: str
    value: float | bool
    limit: tuple[str, float | bool] | None = None
    note: str = ""
    of: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the limit is kept; None without one. NaN keeps none."""
        return None if self.limit is None else _HOLDS[self.limit[0]](self.value, self.limit[1])

    @property
    def name(self) -> str:
        """The key, with its family."""
        return f"{self.key} ({self.of})" if self.of else self.key


def parser(description: str) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    made = argparse.ArgumentParser(description=description.partition("\n")[0])
    made.add_argument("--json", action="store_true", help="print one JSON object last")
    made.add_argument("--quick", action="store_true", help="fewer repetitions of everything: under five minutes")
    made.add_argument(
        "--data", type=Path, default=default_data(), metavar="DIR", help="input data (default: %(default)s)"
    )
    made.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)  # proves that the script runs, no more
    return made


def describe() -> dict[str, Any]:
    """Say what this machine is, how many threads are used and which versions."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": {"torch": torch.get_num_threads(), "onnxruntime": THREADS, "openblas": THREADS},
        "cores_round_trip_ns": round_trip_ns(),
        "load_at_start": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    yield "torch", str(torch.__version__)  # names the build too, as in 2.13.0+cpu
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def show(
    figures: Sequence[Figure], machine: Mapping[str, Any], details: Mapping[str, Any], options: argparse.Namespace
) -> None:
    """Print the table, the machine, and with `--json` the one object, last."""
    mode = "smoke: too few repetitions to mean anything" if options.smoke else "quick" if options.quick else "full"
    width = max(len(figure.name) for figure in figures)
    print(f"\n{'key':<{width}}  {'measured':>10}  {'limit':<9}  {'':<6}  what ({mode})")
    for figure in figures:
        limit = " ".join(_text(item) for item in figure.limit) if figure.limit else "-"
        verdict = {True: "ok", False: "MISSED", None: ""}[figure.holds]
        print(f"{figure.name:<{width}}  {_text(figure.value):>10}  {limit:<9}  {verdict:<6}  {figure.note}")
    missed = [figure.name for figure in figures if figure.holds is False]
    print(f"missed: {', '.join(missed)}" if missed else "every limit kept")
    if machine["load_at_start"][0] > _BUSY:
        print(f"the machine was busy at the start (load {machine['load_at_start'][0]}): these times mean little")
    far = [trip for trip in machine["cores_round_trip_ns"] if trip and trip > _FAR_NS]
    if far:
        print(
            f"the cores share no cache now ({far[0]} ns from one to the other and back): a second thread gains little"
        )
    for title, facts in (("measured", details), ("machine", machine)):
        print(f"\n{title}")
        for name, value in facts.items():
            print(f"  {name:<{width}}  {_facts(value)}")
    if options.json:
        keys: dict[str, Any] = {}
        for figure in figures:
            if figure.of:
                keys.setdefault(figure.key, {})[figure.of] = figure.value
            else:
                keys[figure.key] = figure.value
        print(
            json.dumps(
                {**keys, "missed": missed, "mode": mode.partition(":")[0], "details": details, "machine": machine}
            )
        )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_facts(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_facts(item) for item in value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def main(
    measure: Callable[[argparse.Namespace], tuple[list[Figure], dict[str, Any]]],
    text: str,
    add: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> int:
    """Run a script: measure, print, and return 0 even where a limit is missed, since what failed is in the table.

    `add` gives the script options of its own.
    """
    made = parser(text)
    add(made)
    options = made.parse_args()
    use_threads()
    machine = describe()
    figures, details = measure(options)
    machine["cores_round_trip_ns"] = [machine["cores_round_trip_ns"], round_trip_ns()]  # before and after
    show(figures, machine, details, options)
    return 0
