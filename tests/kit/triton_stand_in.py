"""A stand-in for Triton: its sequence batcher as its guide describes it, over its published gRPC protocol; ONNX Runtime inside.

It follows `config.pbtxt` and nothing else: what that does not say, or says wrongly, goes wrong here as there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64, "TYPE_FP16": np.float16}
NAMES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64", np.dtype(np.float16): "FP16"}


def read_config(model: Path) -> Any:
    """Parse a model's `config.pbtxt` as Triton does; a name it does not know is an error."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return text_format.Parse((model / "config.pbtxt").read_text("utf-8"), ModelConfig())


@dataclass
class Request:
    """One request: its sequence, 0 for none, and its inputs with their batch axis of 1."""

    inputs: dict[str, np.ndarray]
    sequence: int = 0
    start: bool = False
    end: bool = False
    answer: Future[dict[str, np.ndarray]] = field(default_factory=Future)


class Batcher:
    """Runs the model on several requests at once, each with the state of its sequence."""

    def __init__(self, model: Path, config: Any) -> None:
        import onnxruntime

        self.config = config
        path = model / "1" / config.default_model_filename
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        kept = config.sequence_batching.state
        # the core orders both sides by name and pairs them by place
        pairs = zip(sorted(s.input_name for s in kept), sorted(s.output_name for s in kept), strict=True)
        self.pairs, self.states = dict(pairs), {}  # type: ignore[var-annotated]
        self.together: list[int] = []

    def kind_of(self, number: int) -> Any:
        return KINDS[
            type(self.config.input[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[number].name
        ]

    def check(self, request: Request) -> None:
        """Refuse what Triton refuses."""
        said = {item.name: item for item in self.config.input}
        batched = self.config.max_batch_size > 0
        if set(request.inputs) != set(said):
            raise ValueError(f"expected {sorted(said)}, got {sorted(request.inputs)}")
        for name, array in request.inputs.items():
            dims = [-1, *said[name].dims] if batched else list(said[name].dims)
            if len(dims) != array.ndim or any(a not in (-1, b) for a, b in zip(dims, array.shape, strict=True)):
                raise ValueError(f"unexpected shape for input '{name}'. Expected {dims}, got {list(array.shape)}")
            if array.dtype != self.kind_of(said[name].data_type):
                raise ValueError(f"unexpected datatype for input '{name}'")
        if self.pairs and not request.start and request.sequence not in self.states:
            raise ValueError(
                f"sequence {request.sequence} must specify the START flag on the first request of the sequence"
            )

    def call(self, requests: Sequence[Request]) -> list[dict[str, np.ndarray]]:
        """Answer requests of different sequences in one call of the model."""
        assert len({r.sequence for r in requests}) == len(requests) or not self.pairs
        assert len(requests) <= max(1, self.config.max_batch_size)
        for request in requests:
            self.check(request)
            if request.start and self.pairs:
                self.states[request.sequence] = {
                    s.input_name: self.zeros(s) for s in self.config.sequence_batching.state
                }
        names = [item.name for item in self.config.output]
        feeds = [{**r.inputs, **(self.states[r.sequence] if self.pairs else {})} for r in requests]
        feed = {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]} if len(feeds) > 1 else feeds[0]
        outputs = [*names, *self.pairs.values()]
        found = dict(zip(outputs, self.session.run(outputs, feed), strict=True))
        self.together.append(len(requests))
        answers = []
        for row, request in enumerate(requests):
            mine = {k: v[row : row + 1] if len(requests) > 1 else v for k, v in found.items()}
            if self.pairs:
                self.states[request.sequence] = {before: mine[after] for before, after in self.pairs.items()}
                if request.end:
                    del self.states[request.sequence]
            answers.append({name: mine[name] for name in names})
        return answers

    def zeros(self, state: Any) -> np.ndarray:
        (begins,) = state.initial_state
        assert begins.zero_data, "it would begin as whatever was in memory"
        return np.zeros([1, *begins.dims], self.kind_of(begins.data_type))


class Server:
    """Serves a model over gRPC; `forget` drops every state, as a restart or a long silence does."""

    def __init__(self, model: Path) -> None:
        self.config = read_config(model)
        self.batcher = Batcher(model, self.config)
        self.waiting: list[Request] = []
        self.changed, self.closed = threading.Condition(), False
        self.refused: list[str] = []
        self.worker = threading.Thread(target=self._work, daemon=True)
        self.worker.start()

    def forget(self) -> None:
        with self.changed:
            self.batcher.states.clear()

    def ask(self, request: Request) -> dict[str, np.ndarray]:
        with self.changed:
            self.waiting.append(request)
            self.changed.notify_all()
        return request.answer.result(60)

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.closed)
                if self.closed:
                    return
            time.sleep(0.002)  # for others to come
            with self.changed:
                group: list[Request] = []
                for request in list(self.waiting):
                    if len(group) < max(1, self.config.max_batch_size) and self._fits(request, group):
                        group.append(request)
                        self.waiting.remove(request)
                try:
                    for request in list(group):
                        try:
                            self.batcher.check(request)
                        except ValueError as error:
                            group.remove(request)
                            self.refused.append(str(error))
                            request.answer.set_exception(error)
                    for request, answer in zip(group, self.batcher.call(group) if group else (), strict=True):
                        request.answer.set_result(answer)
                except Exception as error:
                    for request in group:
                        request.answer.set_exception(error)

    @staticmethod
    def _fits(request: Request, group: list[Request]) -> bool:
        shapes = [[a.shape for a in one.inputs.values()] for one in (request, *group)]
        return all(shape == shapes[0] for shape in shapes) and request.sequence not in {r.sequence for r in group}

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.worker.join()


@contextlib.contextmanager
def served(model: Path) -> Iterator[tuple[str, Server]]:
    """Serve a model's folder; yield the address and the server."""
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc as rpc

    server = Server(model)

    class Servicer(rpc.GRPCInferenceServiceServicer):
        def ModelConfig(self, request: Any, context: Any) -> Any:
            if request.name != server.config.name:
                context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
            return pb.ModelConfigResponse(config=server.config)

        def ModelInfer(self, request: Any, context: Any) -> Any:
            inputs = {}
            for item, raw in zip(request.inputs, request.raw_input_contents, strict=True):
                kind = next(k for k, v in NAMES.items() if v == item.datatype)
                inputs[item.name] = np.frombuffer(raw, kind).reshape(tuple(item.shape))
            said = {
                name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in request.parameters.items()
            }
            one = Request(
                inputs, said.get("sequence_id", 0), said.get("sequence_start", False), said.get("sequence_end", False)
            )
            try:
                found = server.ask(one)
            except ValueError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"[request id: <id_unknown>] {error}")
            response = pb.ModelInferResponse(model_name=request.model_name)
            for wanted in request.outputs:
                array = np.ascontiguousarray(found[wanted.name])
                item = response.outputs.add(name=wanted.name, datatype=NAMES[array.dtype])
                item.shape.extend(array.shape)
                response.raw_output_contents.append(array.tobytes())
            return response

    size = 2**31 - 1  # Triton's own
    options = [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]
    listening = grpc.server(ThreadPoolExecutor(16), options=options)
    rpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), listening)
    port = listening.add_insecure_port("127.0.0.1:0")
    listening.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        listening.stop(None).wait()
        server.close()
