"""Environments that hold what was asked for and nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import venv
from pathlib import Path

from packaging.requirements import Requirement


def clean_environment(folder: Path, needs: list[str]) -> Path:
    """Make a virtual environment with `needs` and what they need; return its Python.

    They are linked in from this environment, distribution by distribution: no network, no gigabytes, and nothing is there that
    was not asked for.
    """
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(
        subprocess.run([str(python), "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    )
    for name in closure(needs):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    return python


def closure(names: list[str]) -> set[str]:
    """Return the installed distributions that `names` need, themselves included."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        wanted = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        environments = [{"extra": extra} for extra in (*wanted.extras, "")]
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            marker = Requirement(line).marker
            if marker is None or any(marker.evaluate(environment) for environment in environments):
                waiting.append(line.partition(";")[0])
    return found
