"""What this machine lacks for running effvision, each finding with the line that mends it (`effvision doctor`).

This module and what it imports need the standard library only, so that the question can be asked before anything is installed:
`make demo` and `make test` ask it first. Libraries that are slow or may crash are tried in a process of their own.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from effvision._optional import SYSTEM_LIBRARIES

__all__ = ["SYSTEM_LIBRARIES", "Check", "Probe", "diagnose", "missing_libraries", "probe"]

_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")

_PROBES = {
    "numpy": "import numpy; facts = {'version': numpy.__version__}",
    "cv2": "import cv2; facts = {'version': cv2.__version__}",
    "torch": (
        "import torch; facts = {'version': torch.__version__, 'cuda_build': torch.version.cuda, "
        "'cuda': torch.cuda.is_available(), 'threads': torch.get_num_threads()}"
    ),
    "onnxruntime": (
        "import onnxruntime as o; facts = {'version': o.__version__, 'providers': list(o.get_available_providers())}"
    ),
    "onnx": "import onnx, onnxscript; facts = {'version': onnx.__version__, 'onnxscript': onnxscript.__version__}",
}
_PROBE_TIMEOUT_S = 120.0
_PLATFORM_PROVIDERS = ("AzureExecutionProvider",)  # listed by every build, and no accelerator


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        ok: True fine, False needs mending, None nothing to judge (absent and optional).
        detail: What was found.
        hint: The line that mends it, or what the absence costs; empty when there is nothing to do.
    """

    name: str
    ok: bool | None
    detail: str
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Probe:
    """What happened when a library was imported in a process of its own.

    Attributes:
        facts: What it says of itself, or None when it could not be imported.
        error: Last line of the failure, such as `ImportError: libGL.so.1: cannot open shared object file`.
        absent: The failure is that it is not installed.
    """

    facts: Mapping[str, Any] | None = None
    error: str = ""
    absent: bool = False


def diagnose() -> list[Check]:
    """Look at everything and return the findings, in the order in which they matter. Takes a few seconds."""
    installed = _installed()
    with ThreadPoolExecutor() as pool:
        probes = dict(zip(_PROBES, pool.map(probe, _PROBES), strict=True))
    return [
        check_python(sys.version_info[:3], sys.executable),
        check_numpy(probes["numpy"]),
        check_opencv_twins(installed),
        check_opencv(probes["cv2"], missing_libraries("cv2")),
        check_onnxruntime_flavours(installed),
        check_onnxruntime(probes["onnxruntime"], torch_installed=not probes["torch"].absent),
        check_torch(probes["torch"], onnxruntime_works=probes["onnxruntime"].facts is not None),
        check_export(probes["onnx"], torch_works=probes["torch"].facts is not None),
        check_open3d("open3d" in installed or "open3d-cpu" in installed, missing_libraries("open3d")),
        check_page(installed),
        check_weights(),
        check_cache(_cache_folder()),
        check_cameras(),
    ]


def missing_libraries(module: str, *, load: Callable[[str], object] = ctypes.CDLL) -> dict[str, str]:
    """Return the system libraries `module` needs that this Linux cannot load, each with the package that holds it.

    Args:
        module: `cv2` or `open3d`.
        load: Loads a shared library by name or raises OSError.
    """
    missing = {}
    if sys.platform.startswith("linux"):
        for library, package in SYSTEM_LIBRARIES[module].items():
            try:
                load(library)
            except OSError:
                missing[library] = package
    return missing


def probe(name: str, *, code: str | None = None) -> Probe:
    """Import a library in a process of its own and return what it says of itself.

    Args:
        name: One of the libraries this module knows, or any name together with `code`.
        code: Python that leaves a dictionary in `facts`.
    """
    program = f"{_PROBES[name] if code is None else code}\nimport json; print('\\n' + json.dumps(facts))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Probe(error=f"could not be tried: {error}")
    if done.returncode == 0:
        return Probe(facts=json.loads(done.stdout.splitlines()[-1]))
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    error_line = next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), "")
    if done.returncode < 0:
        error_line = f"the import ended the process with signal {-done.returncode}"
    absent = error_line.startswith("ModuleNotFoundError")
    return Probe(error=error_line or (lines[-1] if lines else "no message"), absent=absent)


def check_python(version: Sequence[int], executable: str) -> Check:
    """Python 3.10 or newer."""
    text = ".".join(map(str, version))
    if tuple(version[:2]) < (3, 10):
        return Check("Python", False, f"{text} ({executable})", "effvision needs Python 3.10 or newer")
    return Check("Python", True, f"{text} ({executable}), {platform.platform(terse=True)}, {platform.machine()}")


def check_numpy(found: Probe) -> Check:
    """NumPy can be imported."""
    if found.facts is None:
        return Check("NumPy", False, found.error, "pip install --force-reinstall numpy")
    return Check("NumPy", True, str(found.facts["version"]))


def check_opencv_twins(installed: Mapping[str, str]) -> Check:
    """At most one OpenCV distribution: two share the folder `cv2`, and removing either breaks the other."""
    present = [name for name in _OPENCV if name in installed]
    detail = ", ".join(f"{name} {installed[name]}" for name in present)
    if len(present) > 1:
        keep = "opencv-python" if "opencv-python" in present else present[0]
        return Check(
            "OpenCV packages",
            False,
            f"{detail}: they overwrite each other's files",
            f"pip uninstall -y {' '.join(present)} && pip install {keep}",
        )
    return Check("OpenCV packages", True if present else None, detail or "none installed by pip")


def check_opencv(found: Probe, missing: Mapping[str, str]) -> Check:
    """`cv2` can be imported; where it cannot, the missing system libraries are named."""
    if found.facts is not None:
        return Check("OpenCV", True, str(found.facts["version"]))
    if found.absent:
        return Check("OpenCV", False, "not installed", "pip install opencv-python")
    if missing:
        return Check("OpenCV", False, f"cannot be loaded: {', '.join(missing)} missing", _apt(missing.values()))
    library = re.search(r"lib[\w.+-]+\.so[\w.]*", found.error)
    hint = (
        f"install the system package that holds {library[0]}"
        if library
        else "pip install --force-reinstall opencv-python"
    )
    return Check("OpenCV", False, f"cannot be loaded: {found.error}", hint)


def check_onnxruntime_flavours(installed: Mapping[str, str]) -> Check:
    """At most one ONNX Runtime distribution: the flavours share one folder and break each other."""
    flavours = [name for name in sorted(installed) if re.fullmatch(r"onnxruntime(-[a-z0-9-]+)?", name)]
    flavours = [name for name in flavours if name not in ("onnxruntime-extensions", "onnxruntime-genai")]
    detail = ", ".join(f"{name} {installed[name]}" for name in flavours)
    if len(flavours) > 1:
        keep = next((name for name in flavours if name != "onnxruntime"), flavours[0])
        return Check(
            "ONNX Runtime packages",
            False,
            f"{detail}: they overwrite each other's files",
            f"pip uninstall -y {' '.join(flavours)} && pip install {keep}",
        )
    return Check("ONNX Runtime packages", True if flavours else None, detail or "none installed by pip")


def check_onnxruntime(found: Probe, *, torch_installed: bool) -> Check:
    """ONNX Runtime can be imported, and which accelerators it offers."""
    name = "ONNX Runtime"
    if found.facts is not None:
        providers = [item for item in found.facts["providers"] if item not in _PLATFORM_PROVIDERS]
        return Check(name, True, f"{found.facts['version']}; {', '.join(providers)}")
    if found.absent:
        cost = "bundled and exported files run through it" if torch_installed else "a runtime is needed: this or torch"
        return Check(name, None if torch_installed else False, "not installed", f"pip install onnxruntime ({cost})")
    return Check(name, False, found.error, "pip install --force-reinstall onnxruntime")


def check_torch(found: Probe, *, onnxruntime_works: bool) -> Check:
    """PyTorch can be imported, and whether it sees a GPU."""
    if found.absent:
        cost = (
            "for training and export only" if onnxruntime_works else "or onnxruntime: one of them has to run the models"
        )
        return Check("PyTorch", None, "not installed", f"pip install 'effvision[torch]' ({cost})")
    if found.facts is None:
        return Check("PyTorch", False, found.error, "pip install --force-reinstall torch")
    facts = found.facts
    text = f"{facts['version']}; {facts['threads']} threads; "
    if facts["cuda_build"] is None:
        return Check("PyTorch", True, text + "CPU build")
    if not facts["cuda"]:
        return Check(
            "PyTorch", None, text + f"CUDA {facts['cuda_build']} build, but no GPU answers", "nvidia-smi says why"
        )
    return Check("PyTorch", True, text + f"CUDA {facts['cuda_build']}, GPU found")


def check_export(found: Probe, *, torch_works: bool) -> Check:
    """What `export` needs is there: torch, onnx and onnxscript."""
    if found.facts is not None and torch_works:
        return Check("export", True, f"onnx {found.facts['version']}, onnxscript {found.facts['onnxscript']}")
    if found.facts is None and not found.absent:
        return Check("export", False, found.error, "pip install --force-reinstall onnx onnxscript")
    lacking = [*([] if torch_works else ["torch"]), *([] if found.facts else ["onnx or onnxscript"])]
    return Check("export", None, f"not possible: no {' and no '.join(lacking)}", "pip install 'effvision[torch,onnx]'")


def check_open3d(installed: bool, missing: Mapping[str, str]) -> Check:
    """The system libraries of open3d, where it is installed; importing it takes seconds, so that is not tried."""
    if not installed:
        return Check("open3d", None, "not installed", "pip install 'effvision[points]' (viewing point clouds only)")
    if missing:
        return Check("open3d", False, f"cannot be loaded: {', '.join(missing)} missing", _apt(missing.values()))
    return Check("open3d", True, "installed, its system libraries are there")


def check_page(installed: Mapping[str, str]) -> Check:
    """What `effvision demo` needs is installed: Gradio, and websockets, which its server carries frames with."""
    lacking = [name for name in ("gradio", "websockets") if name not in installed]
    if lacking:
        return Check("live page", None, f"not possible: no {' and no '.join(lacking)}", "pip install 'effvision[demo]'")
    return Check("live page", True, f"gradio {installed['gradio']}, websockets {installed['websockets']}")


def check_weights(folder: Path | None = None) -> Check:
    """Every bundled weights file has the SHA-256 of `weights/index.toml`."""
    name = "bundled weights"
    repair = "pip install --force-reinstall effvision"
    if folder is None:
        spec = find_spec("effvision.weights")
        if spec is None or spec.origin is None:
            return Check(name, False, "the package effvision.weights is missing", repair)
        folder = Path(spec.origin).parent
    index = folder / "index.toml"
    if not index.is_file():
        return Check(name, None, f"no index at {index}")
    wanted = _read_index(index.read_text(encoding="utf-8"))
    absent = [file for file in wanted if not (folder / file).is_file()]
    damaged = [
        file
        for file, digest in wanted.items()
        if file not in absent and hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest
    ]
    if absent or damaged:
        said = [*(f"{file} is missing" for file in absent), *(f"{file} is damaged" for file in damaged)]
        return Check(name, False, ", ".join(said), repair)
    return Check(name, True, f"{len(wanted)} files in {folder}, each with its SHA-256")


def check_cache(folder: Path) -> Check:
    """Downloaded and exported files can be kept."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        hint = "export EFFVISION_CACHE=/a/folder/you/can/write"
        return Check("cache folder", False, f"{folder} cannot be written: {error.strerror or error}", hint)
    return Check("cache folder", True, str(folder))


def check_cameras(folder: Path = Path("/dev"), *, system: str = sys.platform) -> Check:
    """Cameras this user may open (Linux: `/dev/video*`)."""
    if not system.startswith("linux"):
        return Check("cameras", None, f"not looked for on {system}")
    devices = sorted(folder.glob("video*"))
    if not devices:
        return Check("cameras", None, "none found", "files and folders work without one")
    closed = [device for device in devices if not os.access(device, os.R_OK | os.W_OK)]
    if closed:
        hint = 'usermod -aG video "$USER" as root, then log in again'
        return Check("cameras", False, f"{', '.join(map(str, closed))} may not be opened by this user", hint)
    return Check("cameras", True, ", ".join(map(str, devices)))


def _installed() -> dict[str, str]:
    """Names, normalised, and versions of the installed distributions."""
    found = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found[re.sub(r"[-_.]+", "-", name).lower()] = distribution.version
    return found


def _cache_folder() -> Path:
    from effvision.checkpoints import cache_folder

    return cache_folder()


def _read_index(text: str) -> dict[str, str]:
    """File names and digests of `weights/index.toml`, whose sections are `["file name"]` or `[files."file name"]`."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # pragma: no cover - JetPack 6 ships Python 3.10
        import tomli as tomllib
    data = tomllib.loads(text)
    entries: Mapping[str, Any] = data.get("files", data)
    return {name: entry["sha256"] for name, entry in entries.items() if isinstance(entry, dict) and "sha256" in entry}


def _apt(packages: Iterable[str]) -> str:
    """The line that installs system packages on Debian and Ubuntu."""
    return f"apt-get install --no-install-recommends {' '.join(dict.fromkeys(packages))}"
