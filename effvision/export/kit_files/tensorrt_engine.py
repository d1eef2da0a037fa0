"""A TensorRT engine without ONNX Runtime: NVIDIA's `tensorrt` module runs it, CUDA's runtime (through ctypes) holds the memory.

Part of a kit written by effvision (Apache-2.0). Python 3.6 or newer. TensorRT 8.2 to 8.4 count their bindings, 8.5 and newer
name their tensors; both ways are here. They were tested against stand-ins, not on a board: run `runner.py --verify` first.
"""

import ctypes

import numpy as np
from session import KitError

__all__ = ["Engine"]

_LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")
_PLACES = ("", "/usr/local/cuda/lib64/")
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind


class Cuda:
    """The six functions of the CUDA runtime that are needed, on one stream of work."""

    def __init__(self):
        self.library = _load()
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        for name, kinds in (
            ("cudaStreamCreate", [ctypes.POINTER(pointer)]),
            ("cudaMalloc", [ctypes.POINTER(pointer), size]),
            ("cudaMemcpyAsync", [pointer, pointer, size, number, pointer]),
            ("cudaMemsetAsync", [pointer, number, size, pointer]),
            ("cudaStreamSynchronize", [pointer]),
        ):  # without them ctypes would cut addresses to 32 bits
            getattr(self.library, name).argtypes = kinds
        self.library.cudaGetErrorString.argtypes = [number]
        self.library.cudaGetErrorString.restype = ctypes.c_char_p
        self.stream = pointer()
        self._call("cudaStreamCreate", ctypes.byref(self.stream))

    def _call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            reason = self.library.cudaGetErrorString(code).decode("ascii", "replace")
            raise KitError(f"{name} failed: {reason} (CUDA error {code})")

    def allocate(self, size):
        """Return the address of `size` bytes on the device."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), size)
        return address.value

    def clear(self, address, size):
        """Fill with zeros."""
        self._call("cudaMemsetAsync", address, 0, size, self.stream)

    def upload(self, address, array):
        """Copy a contiguous array to the device."""
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, _TO_DEVICE, self.stream)

    def download(self, array, address):
        """Copy from the device into a contiguous array; it is there after `wait`."""
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, _TO_HOST, self.stream)

    def wait(self):
        """Wait until everything asked for is done."""
        self._call("cudaStreamSynchronize", self.stream)


def _load():
    for place in _PLACES:
        for name in _LIBRARIES:
            try:
                return ctypes.CDLL(place + name)
            except OSError:
                continue
    raise KitError(
        f"CUDA's runtime ({_LIBRARIES[0]}) cannot be loaded: is CUDA installed, and /usr/local/cuda/lib64 in LD_LIBRARY_PATH?"
    )


class Bindings:
    """TensorRT 8.2 to 8.4: every tensor has a number, and a call takes all addresses in that order."""

    name = "numbered bindings"

    def __init__(self, engine, context):
        self.context = context
        self.order = [engine.get_binding_name(i) for i in range(engine.num_bindings)]
        self.shapes = {name: tuple(engine.get_binding_shape(i)) for i, name in enumerate(self.order)}
        self.kinds = {name: engine.get_binding_dtype(i) for i, name in enumerate(self.order)}

    def run(self, addresses, stream):
        """Start one call; False if TensorRT refuses."""
        return self.context.execute_async_v2(bindings=[addresses[name] for name in self.order], stream_handle=stream)


class NamedTensors:
    """TensorRT 8.5, 8.6, 10 and newer: every tensor has a name, and is given its address before the call."""

    name = "named tensors"

    def __init__(self, engine, context):
        self.context = context
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        self.kinds = {name: engine.get_tensor_dtype(name) for name in names}

    def run(self, addresses, stream):
        """Start one call; False if TensorRT refuses."""
        placed = [self.context.set_tensor_address(name, address) for name, address in addresses.items()]
        return all(placed) and self.context.execute_async_v3(stream_handle=stream)


class Engine:
    """One graph with its state, which never leaves the device: two buffers for each array, read and written in turn."""

    def __init__(self, path, graph):
        """Take the engine's file and the graph's description, as the metadata has it."""
        try:
            import tensorrt
        except ImportError as error:
            raise KitError(
                f"NVIDIA's Python module `tensorrt` cannot be imported ({error}): `sudo apt-get install python3-libnvinfer`, "
                "and make virtual environments with --system-site-packages"
            ) from error
        self.version = tensorrt.__version__
        self._logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        self._runtime = tensorrt.Runtime(self._logger)  # has to live as long as the engine
        with open(path, "rb") as file:
            self._engine = self._runtime.deserialize_cuda_engine(file.read())
        again = "make it again on this machine with ./build_engine.sh"
        if self._engine is None:
            raise KitError(f"TensorRT {self.version} cannot read {path}: {again}")
        named = hasattr(self._engine, "num_io_tensors")
        self._tensors = (NamedTensors if named else Bindings)(self._engine, self._engine.create_execution_context())
        self.api = self._tensors.name
        wanted = {item["name"]: tuple(item["shape"]) for item in graph["inputs"] + graph["outputs"]}
        wanted.update(
            {state[end]: (1, *tuple(state["shape"])) for state in graph["states"] for end in ("input", "output")}
        )
        if self._tensors.shapes != wanted:
            raise KitError(f"{path} was made from another model than model.json describes: {again}")
        if any(kind != tensorrt.float32 for kind in self._tensors.kinds.values()):
            raise KitError(f"{path} takes or gives other numbers than float32: {again}")
        self._cuda, self._graph, self._shapes = Cuda(), graph, wanted
        plain = graph["inputs"] + graph["outputs"]
        self._plain = {item["name"]: self._cuda.allocate(self._bytes(item["name"])) for item in plain}
        self._held = {state["name"]: self._cuda.allocate(self._bytes(state["input"])) for state in graph["states"]}
        self._next = {state["name"]: self._cuda.allocate(self._bytes(state["input"])) for state in graph["states"]}
        self._answer = np.empty(wanted[graph["outputs"][0]["name"]], np.float32)

    def _bytes(self, name):
        return 4 * int(np.prod(self._shapes[name]))

    def reset(self):
        """Begin a stream: the state is zeros."""
        for state in self._graph["states"]:
            self._cuda.clear(self._held[state["name"]], self._bytes(state["input"]))

    def step(self, pixels):
        """Advance by one frame (1, 3, h, w) float32; return the first output (1, K)."""
        if pixels.shape != self._shapes[self._graph["inputs"][0]["name"]]:
            raise KitError(f"the network takes {self._shapes}; got {pixels.shape}")
        pixels = np.ascontiguousarray(pixels, dtype=np.float32)
        addresses = dict(self._plain)
        for state in self._graph["states"]:
            addresses[state["input"]] = self._held[state["name"]]
            addresses[state["output"]] = self._next[state["name"]]
        self._cuda.upload(self._plain[self._graph["inputs"][0]["name"]], pixels)
        if not self._tensors.run(addresses, self._cuda.stream.value):
            raise KitError("TensorRT refused to run the engine; its own message is above")
        self._cuda.download(self._answer, self._plain[self._graph["outputs"][0]["name"]])
        self._cuda.wait()
        self._held, self._next = self._next, self._held
        return self._answer.copy()
