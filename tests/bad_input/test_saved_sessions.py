"""Saved sessions that are damaged, foreign, or of another model."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effvision import TSM
from effvision.errors import StateError
from effvision.models.tsm.smoothing import Smoothing
from refusals import FUZZ, answers_or_refuses, damaged, some_frame, tiny_model


@pytest.fixture(scope="module")
def saved(model: TSM, folder: Path) -> bytes:
    session = model.session(smoothing=Smoothing(window=3, masked=(1,), merged={0: 2}, confirm=True, start=2))
    for step in range(3):
        session.update(some_frame(step), timestamp=step / 10, source="cam")
    return session.save(folder / "good.npz").read_bytes()


def _open_and_use(model: TSM, path: Path) -> None:
    """Whatever opens must work: a step, a reset, a step, another save."""

    def use() -> list[Any]:
        session = model.session(path=path)
        first = session.update(some_frame(5), timestamp=0.3, source="cam")
        session.reset()
        second = session.update(some_frame(6), timestamp=0.4, source="cam")
        session.save(path)
        return [first, second]

    answers_or_refuses(use)


def test_the_session_file_of_these_tests_opens(model: TSM, saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_bytes(saved)
    assert model.session(path=tmp_path / "s.npz").update(some_frame(5), timestamp=0.3).index == 3


@settings(FUZZ, max_examples=150)
@given(draw=st.data())
def test_a_session_file_with_changed_bytes_is_refused_or_works(
    model: TSM, saved: bytes, folder: Path, draw: st.DataObject
) -> None:
    data = bytearray(saved)
    heads = [at for at in range(len(data) - 4) if data[at : at + 2] in (b"PK", b"\x93N")]  # where the structure is
    for _ in range(draw.draw(st.integers(1, 3), label="changes")):
        near = draw.draw(st.sampled_from(heads), label="head") + draw.draw(st.integers(0, 120), label="after it")
        data[min(near, len(data) - 1)] = draw.draw(st.integers(0, 255), label="byte")
    path = folder / "fuzzed.npz"
    path.write_bytes(bytes(data[: draw.draw(st.sampled_from([len(data), len(data), len(data) // 2]))]))
    _open_and_use(model, path)


def _header(saved: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(saved)) as file:
        header: dict[str, Any] = json.loads(bytes(file["effvision"]))
    return header


def _with_header(saved: bytes, path: Path, header: Any, **changed: np.ndarray) -> Path:
    with np.load(io.BytesIO(saved)) as file:
        held = {name: file[name] for name in file.files}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    np.savez(path, **{**held, "effvision": np.frombuffer(text, np.uint8), **changed})
    return path


@settings(FUZZ, max_examples=150)
@given(draw=st.data())
def test_a_session_whose_memory_is_damaged_is_refused_or_works(
    model: TSM, saved: bytes, folder: Path, draw: st.DataObject
) -> None:
    _open_and_use(model, _with_header(saved, folder / "odd.npz", damaged(_header(saved), draw)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clock", {"period_s": "x", "max_gap_s": 1.0}),
        ("smoothing", []),
        ("smoothed", {"logits": 5}),
        ("logits", "abcd"),
        ("logits", [0.0]),
        ("chosen", 99),
        ("updates", "three"),
        ("timestamp", []),
    ],
)
def test_a_saved_memory_of_the_wrong_kind_is_refused_when_opened(
    model: TSM, saved: bytes, tmp_path: Path, name: str, value: Any
) -> None:
    header = _header(saved)
    header["memory"][name] = value
    path = _with_header(saved, tmp_path / "odd.npz", header)
    with pytest.raises(StateError, match=r"odd\.npz"):
        model.session(path=path)


def test_what_is_no_saved_session_is_refused(model: TSM, saved: bytes, exported: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "cut.npz").write_bytes(saved[: len(saved) // 2])
    zipfile.ZipFile(tmp_path / "zip.npz", "w").close()
    _with_header(saved, tmp_path / "deep.npz", b"[" * 100_000)
    names = [
        "plain.npy",
        "other.npz",
        "pickled.npy",
        "empty.npz",
        "text.npz",
        "cut.npz",
        "zip.npz",
        "deep.npz",
        "no.npz",
    ]
    for path in (*(tmp_path / name for name in names), exported, tmp_path):
        with pytest.raises(StateError, match=path.name):
            model.session(path=path)


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i4", "<U3", "c8", "bool"])
def test_a_saved_state_of_another_dtype_is_refused(model: TSM, saved: bytes, tmp_path: Path, dtype: str) -> None:
    shape = model.initial_state()["state_0"].shape
    path = _with_header(saved, tmp_path / "odd.npz", _header(saved), state_0=np.zeros(shape, dtype))
    with pytest.raises(StateError, match=r"odd\.npz"):
        model.session(path=path)


def test_a_session_of_another_card_version_or_size_is_refused(model: TSM, saved: bytes, tmp_path: Path) -> None:
    for name, value in (("card", "tsm-mobilenetv2-jester"), ("family", "pvcnn"), ("weights_sha256", "0" * 64)):
        path = _with_header(saved, tmp_path / "odd.npz", {**_header(saved), name: value})
        with pytest.raises(StateError, match="was saved by"):
            model.session(path=path)
    path = _with_header(saved, tmp_path / "odd.npz", {**_header(saved), "format": 99})
    with pytest.raises(StateError, match="99"):
        model.session(path=path)
    (tmp_path / "good.npz").write_bytes(saved)
    with pytest.raises(StateError, match="state"):
        tiny_model(size=(32, 32), short_side=32).session(path=tmp_path / "good.npz")
