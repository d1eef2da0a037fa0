"""Triton's own server serves an exported repository: its scheduler batches the sequences and keeps their states.

Its ONNX Runtime back end is published in containers only, so a stand-in (`tests/kit/triton_backend.c`) hands the batches to
this process. `make tritonserver` installs the server, which is on PyPI, and runs this.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kits import small_model
from waiting import wait_until

pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc]")
from triton_stand_in import read_config

SERVER = os.environ.get("EFFVISION_TRITONSERVER", "")
SOURCE = Path(__file__).parents[1] / "kit" / "triton_backend.c"
KINDS = {11: np.float32, 9: np.int64}  # TRITONSERVER_TYPE_FP32 and INT64

pytestmark = pytest.mark.skipif(
    not SERVER or not shutil.which("cc"), reason="needs `make tritonserver` and a C compiler"
)


class Behind(threading.Thread):
    """Runs the model for the stand-in; `together` says how many requests each call held."""

    def __init__(self, model: Path, place: Path) -> None:
        import onnxruntime

        super().__init__(daemon=True)
        config = read_config(model)
        self.session = onnxruntime.InferenceSession(str(model / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
        self.outputs = [item.name for item in config.output]
        self.states = [state.output_name for state in config.sequence_batching.state]
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(place))
        self.listening.listen()
        self.together: list[int] = []

    def run(self) -> None:
        try:
            connection, _ = self.listening.accept()
        except OSError:  # closed before anybody asked
            return
        with connection, connection.makefile("rb") as wire:
            while head := wire.read(4):
                count = struct.unpack("=I", head)[0]
                self.together.append(count)
                feeds = [self.read_request(wire) for _ in range(count)]
                feed = {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}
                names = [*self.outputs, *self.states]
                found = dict(zip(names, self.session.run(names, feed), strict=True))
                for row in range(count):
                    connection.sendall(self.packed({name: array[row : row + 1] for name, array in found.items()}))

    @staticmethod
    def read_request(wire: Any) -> dict[str, np.ndarray]:
        def number() -> int:
            return int(struct.unpack("=I", wire.read(4))[0])

        inputs = {}
        for _ in range(number()):
            name, kind = wire.read(number()).decode(), KINDS[number()]
            shape = np.frombuffer(wire.read(8 * number()), np.int64)
            inputs[name] = np.frombuffer(wire.read(struct.unpack("=Q", wire.read(8))[0]), kind).reshape(shape)
        return inputs

    def packed(self, found: dict[str, np.ndarray]) -> bytes:
        kinds = {np.dtype(kind): number for number, kind in KINDS.items()}
        parts = [struct.pack("=I", len(found))]
        for name, array in found.items():
            parts += [struct.pack("=II", name in self.states, len(name)), name.encode()]
            parts += [struct.pack("=II", kinds[array.dtype], array.ndim), np.array(array.shape, np.int64).tobytes()]
            parts += [struct.pack("=Q", array.nbytes), array.tobytes()]
        return b"".join(parts)


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Behind]]:
    """A repository in Triton's server: its address, the model's folder, and what runs behind it."""
    folder = tmp_path_factory.mktemp("triton")
    report: Any = small_model().export_kit("triton", folder / "models")
    (folder / "backends" / "onnxruntime").mkdir(parents=True)
    library = folder / "backends" / "onnxruntime" / "libtriton_onnxruntime.so"
    subprocess.run(["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    behind = Behind(folder / "models" / report.model, folder / "stand-in")
    behind.start()
    web, grpc, log = free_port(), free_port(), folder / "log"
    command = [
        SERVER,
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--http-port={web}",
        f"--grpc-port={grpc}",
        "--allow-metrics=false",
    ]

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{web}/v2/models/{report.model}/ready").status == 200)
        return False

    with log.open("w") as said:
        environment = {**os.environ, "STAND_IN": str(folder / "stand-in")}
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        try:
            wait_until(ready)
            yield f"127.0.0.1:{grpc}", folder / "models" / report.model, behind
        finally:
            process.kill()
            process.wait()
            behind.listening.close()


def test_sequences_in_one_call_answer_what_a_session_each_does(served: tuple[str, Path, Behind]) -> None:
    """Twelve, two of them begun anew in the middle."""
    url, folder, behind = served
    streams, steps, anew = 12, 30, {3: 11, 5: 20}
    frames = np.random.default_rng(0).uniform(0, 255, (streams, steps, 1, 3, 32, 32)).astype(np.float32)
    found = np.zeros((streams, steps, 4), np.float32)
    sys.path.insert(0, str(folder / "client"))
    try:
        from session import Network  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
        sys.modules.pop("session", None)
    line = threading.Barrier(streams)

    def watch(which: int) -> None:
        network = Network(url, folder.name, 60)
        for step in range(steps):
            line.wait(60)
            if anew.get(which) == step:
                network.reset()
            found[which, step] = network.step(frames[which, step])[0]
        network.end()

    threads = [threading.Thread(target=watch, args=(which,)) for which in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    runtime = small_model().runtime
    for which in range(streams):
        state = runtime.initial_state(1)
        for step in range(steps):
            state = runtime.initial_state(1) if anew.get(which) == step else state
            wanted, state = runtime.step({"frame": frames[which, step]}, state)
            np.testing.assert_allclose(found[which, step], np.asarray(wanted["logits"])[0], rtol=0, atol=1e-5)
    assert max(behind.together) > 1, "nothing was batched"
    print(f"largest call: {max(behind.together)} of {streams} sequences")  # noqa: T201


def test_a_sequence_triton_does_not_know_is_told_so(served: tuple[str, Path, Behind]) -> None:
    """The words the client looks for are Triton's."""
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    url, folder, _ = served
    asked = triton.InferInput("frame", [1, 3, 32, 32], "FP32")
    asked.set_data_from_numpy(np.zeros((1, 3, 32, 32), np.float32))
    lost = (folder / "client" / "session.py").read_text("utf-8").partition('LOST = "')[2].partition('"')[0]
    with triton.InferenceServerClient(url) as client, pytest.raises(InferenceServerException, match=lost):
        client.infer(folder.name, [asked], sequence_id=99)
