"""`effvision map`: what a second worker gains, and what kill -9 at random moments costs.

    efficiency_2  seconds of the command with one worker over those with two, each with one thread, on rendered video clips;
                  start of the workers included, which load the model one after the other
    lost          files without a row after a run over a hundred clips was killed at random moments and begun again each time
    repeated      files with more than one row, or done again though their row was told before the kill

A kill goes to the whole process group. `--quick` kills three times on processes; the full run ten times on each engine (Ray
where it is installed), and times clouds of points too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from _machine import Figure, main

from effvision.batch.table import read_rows
from effvision.cards import get_card, predictor_class
from effvision.models.tsm.clips import LABELS, render_clip
from effvision.sources import VideoWriter

CARD, CLOUDS = "tsm-mobilenetv2-motion", "pvcnn-lidarhd"
SIZE, FPS = (240, 320), 30.0
KILLED_FILES = 100


def write_clips(folder: Path, count: int, frames: int) -> None:
    """Write video files of rendered motions; a few motions, so that making them takes no longer than the measurement."""
    folder.mkdir()
    for number in range(count):
        shown = number % len(LABELS)
        first = folder / f"{shown:03}.mp4"
        if number >= len(LABELS):
            (folder / f"{number:03}.mp4").write_bytes(first.read_bytes())
            continue
        with VideoWriter(first, fps=FPS, size=SIZE) as video:
            for frame in render_clip(LABELS[shown], frames=frames, size=SIZE, fps=FPS, seed=number):
                video.write(frame)


def write_clouds(folder: Path, count: int) -> None:
    """Write files of points: generated villages."""
    folder.mkdir()
    for number in range(count):
        predictor_class(get_card(CLOUDS).family).write_sample(folder / f"{number:03}.ply", card=CLOUDS, seed=number)


def command(card: str, folder: Path, *words: str) -> list[str]:
    out = folder.with_suffix(".parquet")
    return [
        sys.executable,
        "-m",
        "effvision",
        "map",
        card,
        "--inputs",
        f"{folder}/*",
        "--out",
        str(out),
        "--json",
        *words,
    ]


def seconds(card: str, folder: Path, workers: int) -> float:
    """Time the whole command on a fresh output."""
    began = time.perf_counter()
    words = command(card, folder, "--workers", str(workers), "--threads", "1")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["errors"] == 0 and report["done"] == report["files"], report
    folder.with_suffix(".parquet").unlink()
    return spent


def measure_efficiency(card: str, folder: Path, rounds: int) -> tuple[float, dict[str, Any]]:
    """Time one and two workers in turns."""
    seconds(card, folder, 2)  # reads the files and the weights once
    times: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers in (1, 2) if number % 2 else (2, 1):
            times[workers].append(seconds(card, folder, workers))
            print(f"{card}, {workers} workers: {times[workers][-1]:.2f} s", file=sys.stderr, flush=True)
    ratios = [one / two for one, two in zip(times[1], times[2], strict=True)]
    found = {
        "files": len(list(folder.iterdir())),
        "one_worker_s": [round(value, 2) for value in times[1]],
        "two_workers_s": [round(value, 2) for value in times[2]],
        "ratios": [round(value, 3) for value in ratios],
    }
    return statistics.median(ratios), found


def products(spent_s: float) -> int:
    """Count matrix products on one thread in so many seconds."""
    torch.set_num_threads(1)
    a = torch.ones(512, 512)
    until, count = time.monotonic() + spent_s, 0
    while time.monotonic() < until:
        torch.mm(a, a)
        count += 1
    return count


def machine_gain(spent_s: float) -> float:
    """What two processes of one thread each compute here in the time one alone computes 1: 2 where the cores are whole."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(products, [0.5, 0.5]))  # both have started
        before = pool.submit(products, spent_s).result()
        both = sum(pool.map(products, [spent_s, spent_s]))
        after = pool.submit(products, spent_s).result()
    return 2 * both / (before + after)


def rows_there(folder: Path) -> int:
    parts = folder.with_suffix(".parquet.parts")
    return sum(path.read_bytes().count(b"\n") for path in parts.glob("rows-*.jsonl"))


def begin(folder: Path, engine: str, told: Path) -> subprocess.Popen[bytes]:
    words = command(CARD, folder, "--workers", "2", "--threads", "1", "--engine", engine)
    with told.open("ab") as out:
        return subprocess.Popen(words, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True)


def measure_kills(folder: Path, engine: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill a run again and again, let the last one end, and count its rows."""
    rng = random.Random(seed)
    out, told = folder.with_suffix(".parquet"), folder.with_suffix(".told")
    files = sorted(str(path) for path in folder.iterdir())
    at: list[int] = []
    while len(at) < kills:
        before, process = rows_there(folder), begin(folder, engine, told)
        wanted = before + rng.randint(0, max(1, (len(files) - before) // (kills - len(at) + 1)))
        while process.poll() is None and rows_there(folder) < wanted:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if out.exists():
            raise RuntimeError("the run ended before it was killed as often as wanted: more files are needed")
        at.append(rows_there(folder))
        print(f"{engine}: killed with {at[-1]} of {len(files)} rows", file=sys.stderr, flush=True)
    if code := begin(folder, engine, told).wait():
        raise RuntimeError(f"the last run ended with {code}")
    found = Counter(row["path"] for row in read_rows(out))
    said = Counter(path.decode() for path in re.findall(rb'^\{"path": "([^"]+)"', told.read_bytes(), re.MULTILINE))
    lost = [path for path in files if not found[path]]
    repeated = {path for counts in (found, said) for path, count in counts.items() if count > 1}
    out.unlink()
    told.unlink()
    return {"kills": kills, "rows_at_kills": at, "rows": found.total(), "lost": len(lost), "repeated": len(repeated)}


def engines(options: argparse.Namespace) -> Sequence[str]:
    full = not (options.quick or options.smoke)
    if full and not find_spec("ray"):
        print("Ray is left out: it is not installed (pip install 'effvision[scale]')")
    return ("local", "ray") if full and find_spec("ray") else ("local",)


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    full = not (options.quick or options.smoke)
    count, frames, rounds = (6, 30, 1) if options.smoke else (120, 120, 3) if options.quick else (120, 240, 5)
    details: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder / "clips", count, frames)
        details["two processes over one, matrix products"] = machine_gain(0.5 if options.smoke else 3.0)
        efficiency, details["clips"] = measure_efficiency(CARD, folder / "clips", rounds)
        if full:
            write_clouds(folder / "clouds", 24)
            details["efficiency_2, clouds"], details["clouds"] = measure_efficiency(CLOUDS, folder / "clouds", 3)
        write_clips(folder / "killed", KILLED_FILES, 10 if options.smoke else 60)
        for engine in engines(options):
            kills = 1 if options.smoke else 3 if options.quick else 10
            details[f"killed, {engine}"] = measure_kills(folder / "killed", engine, kills, seed=len(engine))
    killed = [found for title, found in details.items() if title.startswith("killed")]
    figures = [
        Figure("efficiency_2", efficiency, (">=", 1.6), "one worker over two, one thread each"),
        Figure("lost", sum(found["lost"] for found in killed), ("<=", 0), "files without a row after kills"),
        Figure("repeated", sum(found["repeated"] for found in killed), ("<=", 0), "files with two rows, or done twice"),
    ]
    return figures, details


if __name__ == "__main__":
    sys.exit(main(measure, __doc__ or ""))
