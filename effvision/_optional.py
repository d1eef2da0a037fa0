"""Import what may be absent, and say in one message what is missing and which line installs it.

`effvision.doctor` reads this module before anything is installed: it needs the standard library only.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from types import ModuleType

from effvision.errors import MissingDependencyError

__all__ = ["SYSTEM_LIBRARIES", "import_cv2", "require"]

_SHARED_LIBRARY = re.compile(r"lib[\w.+-]+?\.so(?:\.\d+)*|[\w.+-]+\.dll|lib[\w.+-]+\.dylib")

SYSTEM_LIBRARIES: Mapping[str, Mapping[str, str]] = {
    "cv2": {"libGL.so.1": "libgl1", "libglib-2.0.so.0": "libglib2.0-0", "libxcb.so.1": "libxcb1"},
    "open3d": {
        "libGL.so.1": "libgl1",
        "libEGL.so.1": "libegl1",
        "libX11.so.6": "libx11-6",
        "libusb-1.0.so.0": "libusb-1.0-0",
        "libidn2.so.0": "libidn2-0",
        "libudev.so.1": "libudev1",
    },
}
"""Shared libraries that the Linux wheels link to but do not bring, and the Debian or Ubuntu package that holds each."""


def require(module: str, *, extra: str | None = None, package: str | None = None) -> ModuleType:
    """Import `module`, or say how to get it. Nothing is installed here.

    Args:
        module: Dotted name to import, such as "open3d".
        extra: The optional dependency group of effvision that holds it, for the hint.
        package: The name `pip` knows it by when it belongs to no extra. Default: the top name of `module`.

    Raises:
        MissingDependencyError: it is not installed, a system library it links to is absent, or it fails to load.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # older wheels raise OSError when a shared library is absent
        raise MissingDependencyError(_explain(module, error, extra=extra, package=package)) from error


def import_cv2() -> ModuleType:
    """Import OpenCV, the only way this package does it.

    Raises:
        MissingDependencyError: OpenCV or a system library it needs is absent; the message names it and the line.
    """
    return require("cv2", package="opencv-python")


def _explain(module: str, error: Exception, *, extra: str | None, package: str | None) -> str:
    root = module.partition(".")[0]
    install = f"pip install 'effvision[{extra}]'" if extra else f"pip install {package or root}"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] == root:
        return f"`{module}` is needed here and is not installed\nhint: {install}"
    library = _SHARED_LIBRARY.search(str(error))
    if library and root in SYSTEM_LIBRARIES:
        return (
            f"`{module}` is installed, but the system library {library[0]} it needs could not be loaded ({error})\n"
            f"hint: apt-get install {' '.join(SYSTEM_LIBRARIES[root].values())}"
        )
    if library:
        return (
            f"`{module}` is installed, but the system library {library[0]} it needs could not be loaded ({error})\n"
            "hint: install the system package that holds this library"
        )
    return f"`{module}` is installed, but could not be loaded: {error}\nhint: reinstall it with {install}"
