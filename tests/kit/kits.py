"""For tests of exported kits: a small model, running a kit's programs, and stand-ins for TensorRT and CUDA."""

from __future__ import annotations

import ctypes
import importlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effvision import TSM
from effvision.models.tsm.network import insert_temporal_shift, randomise
from effvision.models.tsm.time import Direction

MODULES = ("runner", "session", "stream", "video", "tensorrt_engine")


class Block(nn.Module):
    """A residual block, made before the shift is put into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(x))


def small_model(*, shift: Direction = "causal") -> TSM:
    """A network of four classes that exports in a second, with a frame rate and a rule for its labels."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 4, 4), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    sites = ["1.conv", "2.conv"]
    network = randomise(insert_temporal_shift(nn.Sequential(*layers), direction=shift, fold=2, sites=sites)).eval()
    model = TSM.from_network(network, labels=["a", "b", "c", "\u00fc"], size=(32, 32), short_side=40, fps=10.0)
    rule = {"window": 3, "threshold": 0.3, "rest": 3, "hold": 0.28, "masked": [], "merged": {"0": 1}}
    model.metadata = replace(model.metadata, options={**model.metadata.options, "settle": 1, "smoothing": rule})
    return model


def run_kit(
    folder: Path, *arguments: str, python: str = sys.executable, program: str = "runner.py", **variables: str
) -> Any:
    """Run a kit's program as a user does, in its folder and in a process of its own, which takes a second to start."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8", **variables}
    command = [python, program, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=240)


def call_kit(folder: Path, *arguments: str, program: str = "runner.py") -> Any:
    """Run a kit's program from its first line in this process: the same answer as `run_kit` in a tenth of the time."""
    said, complained = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    before, home, code = set(sys.modules), os.getcwd(), 0
    kept = sys.argv, sys.dont_write_bytecode, [sys.modules.pop(name, None) for name in MODULES]
    sys.argv, sys.dont_write_bytecode = [program, *arguments], True
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    try:
        with redirect_stdout(said), redirect_stderr(complained):
            runpy.run_path(program, run_name="__main__")
    except SystemExit as left:
        code = int(left.code or 0)
    finally:
        os.chdir(home)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]  # the next kit has modules of the same names
        sys.argv, sys.dont_write_bytecode, modules = kept
        sys.modules.update({name: module for name, module in zip(MODULES, modules, strict=True) if module is not None})
    texts = []
    for stream in (said, complained):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8"))  # type: ignore[attr-defined]
    return SimpleNamespace(returncode=code, stdout=texts[0], stderr=texts[1])


@contextmanager
def loaded(folder: Path, **stand_ins: Any) -> Iterator[SimpleNamespace]:
    """Import a kit's programs into this process, with `stand_ins` in place of libraries; undone afterwards."""
    kept = {name: sys.modules.pop(name, None) for name in (*MODULES, *stand_ins)}
    sys.path.insert(0, str(folder))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        sys.modules.update(stand_ins)
        names = [name for name in MODULES if (folder / f"{name}.py").exists()]
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.dont_write_bytecode = before
        sys.path.remove(str(folder))
        for name, module in kept.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


# -- CUDA's runtime, in main memory --------------------------------------------------------------------------------------------


class Cudart:
    """What `ctypes.CDLL("libcudart.so")` would give: device memory is ordinary memory, filled with 255 at first."""

    def __init__(self, *, fails: str = "") -> None:
        self.memory: dict[int, Any] = {}
        for name in ("StreamCreate", "Malloc", "MemcpyAsync", "MemsetAsync", "StreamSynchronize", "GetErrorString"):
            setattr(self, f"cuda{name}", self._function(name, fails == name))

    def _function(self, name: str, fails: bool) -> Any:
        def call(*arguments: Any) -> Any:
            if name == "GetErrorString":
                return b"out of memory"
            return 2 if fails else getattr(self, f"_{name.lower()}")(*arguments)

        return call  # a function, because ctypes' own take attributes such as `argtypes`

    def _streamcreate(self, stream: Any) -> int:
        stream._obj.value = 77
        return 0

    def _malloc(self, place: Any, size: int) -> int:
        block = ctypes.create_string_buffer(b"\xff" * size, size)
        place._obj.value = ctypes.addressof(block)
        self.memory[place._obj.value] = block
        return 0

    def _memcpyasync(self, to: int, source: int, size: int, kind: int, stream: Any) -> int:
        assert {1: to, 2: source}[kind] in self.memory and stream.value == 77
        ctypes.memmove(to, source, size)
        return 0

    def _memsetasync(self, to: int, value: int, size: int, stream: Any) -> int:
        assert to in self.memory and size == len(self.memory[to])
        ctypes.memset(to, value, size)
        return 0

    def _streamsynchronize(self, stream: Any) -> int:
        return 0


C_CUDART = r"""
#include <stdlib.h>
#include <string.h>
int cudaStreamCreate(void **stream) { *stream = (void *)77; return 0; }
int cudaMalloc(void **place, size_t size) { *place = malloc(size); memset(*place, 255, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    if ((kind != 1 && kind != 2) || stream != (void *)77) return 11;
    memcpy(to, from, size); return 0; }
int cudaMemsetAsync(void *to, int value, size_t size, void *stream) { memset(to, value, size); return 0; }
int cudaStreamSynchronize(void *stream) { return stream == (void *)77 ? 0 : 11; }
const char *cudaGetErrorString(int code) { return "invalid"; }
"""


# -- TensorRT, with ONNX Runtime behind it ------------------------------------------------------------------------------------


def tensorrt(onnx: Path, version: str, *, refuses: bool = False, dtype: str = "float32") -> ModuleType:
    """A module `tensorrt` whose engine is `onnx`, with the interface of that release: numbered bindings before 8.5."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    tensors = {tensor.name: tuple(tensor.shape) for tensor in [*outputs, *inputs]}  # not the metadata's order
    names = list(tensors)

    def execute(addresses: dict[str, int], stream: int) -> bool:
        assert stream == 77 and set(addresses) == set(names)
        assert len(set(addresses.values())) == len(names), "an array is written where another is read"
        feed = {item.name: _at(addresses[item.name], tensors[item.name]).copy() for item in inputs}
        for item, found in zip(outputs, session.run(None, feed), strict=True):
            _at(addresses[item.name], tensors[item.name])[...] = found
        return not refuses

    major, minor = (int(part) for part in version.split(".")[:2])
    named = (major, minor) >= (8, 5)
    module = ModuleType("tensorrt")
    context = _named_context(execute) if named else _numbered_context(execute, names)
    engine = _named_engine(tensors, context) if named else _numbered_engine(tensors, context)
    vars(module).update(
        __version__=version,
        float32="float32",
        Logger=type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None}),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: engine(dtype) if data else None),
    )
    return module


def _at(address: int, shape: tuple[int, ...]) -> np.ndarray:
    kind = ctypes.c_float * int(np.prod(shape))
    return np.frombuffer(kind.from_address(address), np.float32).reshape(shape)


def _named_context(execute: Callable[..., bool]) -> Any:
    placed: dict[str, int] = {}

    def set_tensor_address(name: str, address: int) -> bool:
        placed[name] = address
        return True

    def execute_async_v3(stream_handle: int) -> bool:
        return execute(placed, stream_handle)

    return SimpleNamespace(set_tensor_address=set_tensor_address, execute_async_v3=execute_async_v3)


def _numbered_context(execute: Callable[..., bool], names: list[str]) -> Any:
    def execute_async_v2(bindings: list[int], stream_handle: int) -> bool:
        return execute(dict(zip(names, bindings, strict=True)), stream_handle)

    return SimpleNamespace(execute_async_v2=execute_async_v2)


def _named_engine(tensors: dict[str, tuple[int, ...]], context: Any) -> Any:
    return lambda dtype: SimpleNamespace(
        num_io_tensors=len(tensors),
        get_tensor_name=list(tensors).__getitem__,
        get_tensor_shape=tensors.__getitem__,
        get_tensor_dtype=lambda name: dtype,
        create_execution_context=lambda: context,
    )


def _numbered_engine(tensors: dict[str, tuple[int, ...]], context: Any) -> Any:
    return lambda dtype: SimpleNamespace(
        num_bindings=len(tensors),
        get_binding_name=list(tensors).__getitem__,
        get_binding_shape=lambda index: list(tensors.values())[index],
        get_binding_dtype=lambda index: dtype,
        create_execution_context=lambda: context,
    )
