"""ONNX Runtime, whichever flavour is installed: one session per graph file, metadata read from the file itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effvision._files import as_path
from effvision._optional import require
from effvision.errors import InputError, ModelFileError, RuntimeFailure
from effvision.metadata import EXPORT_KEY, GRAPH_KEY, KEY, GraphSpec, Metadata, main_graph, part_path
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
        self._paths: dict[str, Path] = {}
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
            InputError: the installed ONNX Runtime has no such device, or the file is int8 for another kind of machine.
            MissingDependencyError: onnxruntime is not installed.
        """
        path = as_path(path)
        session = open_session(path, device=device, threads=threads)
        metadata = read_metadata(session, where=str(path))
        _refuse_other_form(metadata, device, str(path))
        first = main_graph(metadata.graphs)
        if (held := held_graph(session, metadata)) != first:
            raise ModelFileError(
                f"{path} is only the part `{held}` of a model\nhint: open the file that holds `{first}`"
            )
        sessions, paths = {first: session}, {first: path}
        for name in set(metadata.graphs) - {first}:
            paths[name] = part_path(path, name, metadata.graphs)
            if not paths[name].is_file():
                raise ModelFileError(f"{path} is one part of a model; {paths[name].name} beside it is missing")
            sessions[name] = open_session(paths[name], device=device, threads=threads)
            _check_part(session, sessions[name], metadata, name, paths[name])
        runtime = cls(sessions, metadata.graphs, device=device)
        runtime._paths = paths
        return runtime, metadata

    def run(self, graph: str, arrays: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """Run one session; see `Runtime.run`. With `wanted`, only these outputs are copied."""
        names = self._outputs[graph] if wanted is None else list(wanted)
        feed = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        try:
            return dict(zip(names, self._sessions[graph].run(names, feed), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise RuntimeFailure(f"ONNX Runtime failed in graph `{graph}`: {error}") from error

    def multiply_adds(self, graph: str, batch: int) -> int:
        """Count them in the file; see `Runtime.multiply_adds`."""
        if graph not in self._paths:
            raise ModelFileError("these sessions were not opened from a file")
        require("onnx", extra="onnx")
        return onnx_multiply_adds(self._paths[graph], batch=batch)


def _refuse_other_form(metadata: Metadata, device: str, where: str) -> None:
    """Int8 for TensorRT is many times slower than float32 on a processor, and TensorRT cannot read that for processors."""
    form = metadata.precision.get("int8", {}).get("form")
    kind = device.partition(":")[0]
    if form == "tensorrt" and kind not in ("tensorrt", "cuda"):
        raise InputError(
            f"{where} is int8 for TensorRT; on {kind} it would be slower than float32\n"
            "hint: device='tensorrt', or export it with int8='cpu'"
        )
    if form == "cpu" and kind in ("tensorrt", "cuda"):
        raise InputError(f"{where} is int8 for processors, not for {kind}\nhint: export it with int8='tensorrt'")


def open_session(
    model: str | os.PathLike[str] | bytes, *, device: str = "cpu", threads: int | None = None, spin: bool = True
) -> Any:
    """Open an `onnxruntime.InferenceSession` on exactly one device; arguments and errors as `OnnxRuntime.load`.

    With `spin` off, threads sleep between operators: a little slower, but many sessions do not take each other's cores.
    """
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
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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


def held_graph(session: Any, metadata: Metadata) -> str:
    """Return which graph of the model a file holds."""
    said = session.get_modelmeta().custom_metadata_map.get(GRAPH_KEY)
    return str(said or main_graph(metadata.graphs))


def _check_part(main: Any, session: Any, metadata: Metadata, name: str, path: Path) -> None:
    """Make sure that a part was written by the same export: another has other weights, or another precision."""
    part = read_metadata(session, where=str(path))
    exports = [one.get_modelmeta().custom_metadata_map.get(EXPORT_KEY) for one in (main, session)]
    if exports[0] != exports[1] or part.graphs != metadata.graphs or held_graph(session, part) != name:
        raise ModelFileError(
            f"{path} is a part of another export\nhint: export the model again, all its files together"
        )


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
    name = held_graph(session, metadata)
    if name not in metadata.graphs:
        raise ModelFileError(f"{where} says it holds the graph `{name}`, which its own metadata do not know")
    spec = metadata.graphs[name]
    said = {tensor.name: tensor.shape for tensor in [*spec.inputs, *spec.outputs]}
    batch = spec.inputs[0].shape[0] if spec.inputs and spec.inputs[0].shape else ""
    said |= {name: (batch, *state.shape) for state in spec.states for name in (state.input, state.output)}
    for name, shape in said.items():
        if name not in have or list(have[name]) != list(shape):
            found = have.get(name, "not there")
            raise ModelFileError(f"the metadata of {where} says `{name}` is {list(shape)}; in the graph it is {found}")
    if left := set(have) - set(said):
        raise ModelFileError(f"the metadata of {where} does not say what {', '.join(sorted(left))} of its graph is")
    return metadata
