"""ONNX Runtime, whichever flavour is installed: one session per graph file, metadata read from the file itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from effvision._files import as_path
from effvision._optional import require
from effvision.errors import InputError, ModelFileError, RuntimeFailure
from effvision.metadata import KEY, GraphSpec, Metadata
from effvision.runtime.base import Runtime
from effvision.runtime.work import onnx_multiply_adds
from effvision.state import Array

__all__ = ["OnnxRuntime", "open_session", "read_metadata"]

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


class OnnxRuntime(Runtime):
    """Runs exported graphs on one execution provider, and refuses to fall back to another in silence."""

    name = "onnx"

    def __init__(self, sessions: Mapping[str, Any], graphs: Mapping[str, GraphSpec], *, device: str = "cpu") -> None:
        """Take open sessions by graph name; see `OnnxRuntime.load`."""
        self.graphs = dict(graphs)
        self.device = device
        self._sessions = dict(sessions)
        self._path: Path | None = None
        self._outputs = {name: [output.name for output in s.get_outputs()] for name, s in self._sessions.items()}

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, device: str = "cpu", threads: int | None = None
    ) -> tuple[OnnxRuntime, Metadata]:
        """Open an exported file.

        Args:
            path: The `.onnx` file written by `export`.
            device: `cpu`, `cuda`, `tensorrt`, `coreml` or `openvino`.
            threads: Threads inside one operator; None lets ONNX Runtime choose (all cores).

        Returns:
            The runtime and the file's metadata.

        Raises:
            ModelFileError: no such file, damaged, or without our metadata.
            InputError: the installed ONNX Runtime has no such device.
            MissingDependencyError: onnxruntime is not installed.
        """
        session = open_session(path, device=device, threads=threads)
        metadata = read_metadata(session, where=str(path))
        name = next(iter(metadata.graphs))
        runtime = cls({name: session}, metadata.graphs, device=device)
        runtime._path = as_path(path)
        return runtime, metadata

    def run(self, graph: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run one session; see `Runtime.run`."""
        names = self._outputs[graph]
        feed = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        try:
            return dict(zip(names, self._sessions[graph].run(names, feed), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise RuntimeFailure(f"ONNX Runtime failed in graph `{graph}`: {error}") from error

    def multiply_adds(self, graph: str, batch: int) -> int:
        """Count them in the file; see `Runtime.multiply_adds`."""
        if self._path is None:
            raise ModelFileError("these sessions were not opened from a file")
        require("onnx", extra="onnx")
        return onnx_multiply_adds(self._path, batch=batch)


def open_session(model: str | os.PathLike[str] | bytes, *, device: str = "cpu", threads: int | None = None) -> Any:
    """Open an `onnxruntime.InferenceSession` on exactly one device; arguments and errors as `OnnxRuntime.load`."""
    # from 1.29 on its Linux builds report to their maker unless told not to before the import; "0" in the environment allows it
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    ort = require("onnxruntime", extra="onnx")
    kind, _, number = device.partition(":")
    provider = _PROVIDERS.get(kind)
    if provider and number and not (number.isdecimal() and kind in ("cuda", "tensorrt")):
        raise InputError(f"`device` {device!r}: only cuda and tensorrt are numbered, as in 'cuda:1'")
    if provider is None or provider not in ort.get_available_providers():
        have = [name for name, value in _PROVIDERS.items() if value in ort.get_available_providers()]
        raise InputError(
            f"the installed onnxruntime {ort.__version__} has no device {device!r}; it has {', '.join(have)}\n"
            "hint: for a GPU install onnxruntime-gpu instead of onnxruntime (never both)"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    where = "the model" if isinstance(model, bytes) else str(model)
    if not isinstance(model, bytes):
        path = as_path(model)
        if not path.is_file():
            raise ModelFileError(f"there is no file {path}")
        if path.stat().st_size == 0:
            raise ModelFileError(f"{path} is empty: a download or copy that was cut short?")
        model = str(path)
    try:
        chosen = (provider, {"device_id": int(number)}) if number else provider
        session = ort.InferenceSession(model, options, providers=[chosen])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise ModelFileError(f"{where} is no ONNX file that onnxruntime {ort.__version__} can read: {error}") from error
    if session.get_providers()[0] != provider:
        raise InputError(f"onnxruntime fell back to {session.get_providers()[0]} although {device!r} was asked for")
    return session


def read_metadata(session: Any, *, where: str) -> Metadata:
    """Return our metadata block of an open session.

    Raises:
        ModelFileError: the file has none, or it is damaged, or it names tensors the graph does not have.
    """
    found = session.get_modelmeta().custom_metadata_map
    if KEY not in found:
        keys = ", ".join(sorted(found)) or "none"
        raise ModelFileError(
            f"{where} carries no `{KEY}` metadata (keys found: {keys}), so its labels, sizes and state are unknown\n"
            "hint: write it with `effvision export` or `model.export(...)`"
        )
    metadata = Metadata.from_json(found[KEY], where=where)
    have = {tensor.name: tensor.shape for tensor in [*session.get_inputs(), *session.get_outputs()]}
    for spec in metadata.graphs.values():
        said = {tensor.name: tensor.shape for tensor in [*spec.inputs, *spec.outputs]}
        batch = spec.inputs[0].shape[0] if spec.inputs and spec.inputs[0].shape else ""
        said |= {name: (batch, *state.shape) for state in spec.states for name in (state.input, state.output)}
        for name, shape in said.items():
            if name not in have or list(have[name]) != list(shape):
                found = have.get(name, "not there")
                raise ModelFileError(
                    f"the metadata of {where} says `{name}` is {list(shape)}; in the graph it is {found}"
                )
        if left := set(have) - set(said):
            raise ModelFileError(f"the metadata of {where} does not say what {', '.join(sorted(left))} of its graph is")
    return metadata
