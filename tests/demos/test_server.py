"""How the page starts and ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from page_server import read, served


def demo(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Run `effvision demo`, which must end by itself; return its exit code and what it said."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = {
        **os.environ,
        "TMPDIR": str(folder),
        "EFFVISION_CACHE": str(tmp_path / "cache"),
        "EFFVISION_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "effvision", "demo", "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert list(folder.iterdir()) == [], "something was left"
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("tsm-resnet50-kinetics-8f", "bidirectional"),
        ("tsm-mobilenetv2-jester", "are not here"),
        ("tsm-mobilenetv2-motoin", "did you mean"),
    ],
)
def test_a_card_that_cannot_work_is_refused_at_the_start(tmp_path: Path, card: str, said: str) -> None:
    pytest.importorskip("torch")  # else the missing runtime is named before the missing weights
    code, output = demo(tmp_path, card)
    assert code and said in output and "Traceback" not in output


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    code, output = demo(tmp_path, "--certificate", str(wrong), str(wrong))
    assert code and "must be PEM" in output and "Traceback" not in output


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_asked_to_end_it_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM, with somebody connected; what telemetry would write is looked for too."""
    host = "::1" if has_ipv6() else "127.0.0.1"  # all other tests take the latter
    folder = tmp_path / "page"
    folder.mkdir()
    with contextlib.ExitStack() as staying:
        with served(folder, ["-m", "effvision", "demo", "--host", host, "--port", "0", "--json"]) as page:
            assert page.url.startswith("http://[::1]:" if ":" in host else "http://localhost:")
            read(staying.enter_context(page.talk(origin=page.url.rstrip("/"))), "hello")
            assert page.visitors(1) == 1
            assert list(folder.glob("effvision-demo-*"))
        assert list(folder.iterdir()) == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_https(tmp_path: Path) -> None:
    import ssl

    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost "
        f"-keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    folder = tmp_path / "page"
    folder.mkdir()
    program = ["-m", "effvision", "demo", "--port", "0", "--json", "--certificate", str(certificate), str(key)]
    with served(folder, program) as page:
        trusting = ssl.create_default_context(cafile=str(certificate))
        with urllib.request.urlopen(page.url, timeout=60, context=trusting) as answer:
            assert answer.status == 200 and page.url.startswith("https://")
        with page.talk(ssl=trusting, origin=page.url.rstrip("/")) as talking:
            read(talking, "hello")
    assert list(folder.iterdir()) == []
