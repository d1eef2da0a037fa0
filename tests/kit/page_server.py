"""Run the page as a user does, in a process of its own, and talk to it."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

CARD = "tsm-mobilenetv2-motion"
TRACKER = "patchnet-synthetic"


@dataclass(frozen=True)
class Page:
    """A running page: its address, the folder that holds all its temporary files, and its process."""

    url: str
    folder: Path
    pid: int = 0

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + "effvision/status", timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def visitors(self, wanted: int, *, tab: str | None = None, within_s: float = 60.0) -> int:
        """Wait until so many are connected, to one tab or to all; return how many there are."""
        end = time.monotonic() + within_s
        while (now := self._visitors(tab)) != wanted and time.monotonic() < end:
            time.sleep(0.1)
        return now

    def _visitors(self, tab: str | None) -> int:
        status = self.status()
        return int(status["visitors"] if tab is None else status["tabs"][tab])

    @property
    def log(self) -> Path:
        """What it writes to its terminal."""
        return self.folder.parent / f"{self.folder.name}.log"

    def files(self) -> list[Path]:
        """All temporary files but the samples, which are drawn at some time after the start."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return [path for path in files if CARD not in path.name and TRACKER not in path.name]

    def upload(self, name: str, data: bytes) -> str:
        """Send a file the way Gradio's own page does; return its path on the server."""
        body = (
            b'--cut\r\nContent-Disposition: form-data; name="files"; filename="' + name.encode() + b'"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n--cut--\r\n"
        )
        request = urllib.request.Request(
            self.url + "gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=cut"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.load(answer)[0])

    def talk(self, tab: str = "gestures", **options: Any) -> ClientConnection:
        address = self.url.replace("http", "ws", 1) + f"effvision/live/{tab}"
        return connect(address, max_size=2**24, proxy=None, open_timeout=60, **options)


@contextlib.contextmanager
def served(folder: Path, program: list[str]) -> Iterator[Page]:
    """Start `program`, which prints a JSON object with `url`; its temporary files go to `folder`."""
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("CI", None)  # some libraries send no telemetry where it is set
    log = Page("", folder).log
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, *program], stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, f"the page did not start:\n{log.read_text()}"
        yield Page(json.loads(line)["url"], folder, process.pid)
        assert process.poll() is None, f"the page ended by itself:\n{log.read_text()}"
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def frame_message(image: np.ndarray, seconds: float, number: int) -> bytes:
    """What the page sends for one RGB picture."""
    from effvision.demos.pictures import encode_frame

    return struct.pack("<dI", seconds, number) + encode_frame(image, width=4096)


def unpacked(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Take a file's frame apart: what is said of it, and its JPEG."""
    length = struct.unpack_from("<I", message)[0]
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def read(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next text message, which must be of this kind."""
    message = json.loads(socket.recv(timeout=60))
    assert message["kind"] == kind, message
    return message  # type: ignore[no-any-return]
