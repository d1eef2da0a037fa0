"""Exported files that are damaged or not ours, and metadata that does not fit its graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effvision import TSM
from effvision.cli import main
from effvision.errors import ModelFileError
from effvision.metadata import KEY, Metadata
from refusals import FUZZ, answers_or_refuses, cut_short, damaged, refused, some_frame


def _with_metadata(exported: Path, target: Path, text: str | None, key: str = KEY) -> Path:
    proto = onnx.load(exported)
    del proto.metadata_props[:]
    if text is not None:
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, text
    target.write_bytes(proto.SerializeToString())
    return target


def _metadata(exported: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(onnx.load(exported).metadata_props[0].value)
    return found


def test_an_exported_file_of_another_family_is_refused(exported: Path, tmp_path: Path) -> None:
    text = json.dumps({**_metadata(exported), "family": "pvcnn"})
    path = _with_metadata(exported, tmp_path / "foreign.onnx", text)
    refused(lambda: TSM.from_pretrained(path), "foreign.onnx", "'pvcnn'", kind=ModelFileError)


@pytest.mark.parametrize("key", [None, "ultralytics"])
def test_an_onnx_file_without_our_metadata_is_refused(exported: Path, tmp_path: Path, key: str | None) -> None:
    path = _with_metadata(exported, tmp_path / "bare.onnx", None if key is None else "{}", key or "")
    refused(lambda: TSM.from_pretrained(path), "bare.onnx", key or "none", "export", kind=ModelFileError)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_onnx_file_is_refused(exported: Path, tmp_path: Path, share: float) -> None:
    bad = cut_short(exported, tmp_path / "cut.onnx", share)
    with pytest.raises(ModelFileError, match=r"cut\.onnx"):
        TSM.from_pretrained(bad)
    assert main(["info", str(bad)]) == 1


def test_a_text_file_a_folder_and_nothing_are_no_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("graph { }")
    (tmp_path / "folder.onnx").mkdir()
    for name in ("text.onnx", "folder.onnx", "absent.onnx"):
        with pytest.raises(ModelFileError, match=name):
            TSM.from_pretrained(tmp_path / name)


@settings(FUZZ, max_examples=150)
@given(draw=st.data())
def test_damaged_metadata_is_refused_or_does_no_harm(exported: Path, folder: Path, draw: st.DataObject) -> None:
    text = json.dumps(damaged(_metadata(exported), draw))
    path = _with_metadata(exported, folder / "damaged.onnx", text)
    opened: list[TSM] = []
    if answers_or_refuses(lambda: opened.append(TSM.from_pretrained(path)) or opened):
        answers_or_refuses(lambda: opened[0].predict(some_frame()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "5",
        '"text"',
        "{}",
        "[" * 100_000,
        '{"schema": 1}',
        '{"schema": Infinity}',
        '{"schema": "one"}',
        '{"schema": null}',
    ],
    ids=lambda text: text[:20],
)
def test_metadata_that_is_no_block_of_ours_is_refused(exported: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelFileError, match=r"damaged\.onnx"):
        Metadata.from_json(text, where="damaged.onnx")
    with pytest.raises(ModelFileError, match=r"damaged\.onnx"):
        TSM.from_pretrained(_with_metadata(exported, tmp_path / "damaged.onnx", text))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("graphs",), {}),  # no graph at all
        (("family",), []),
        (("family",), None),
        (("labels",), ["only one"]),  # fewer than the graph's classes
        (("labels",), "abcd"),
        (("preprocess",), {}),
        (("preprocess", "size"), "large"),
        (("preprocess", "size"), [16]),
        (("preprocess", "size"), [8, 8]),  # not the graph's
        (("options",), []),
        (("options", "fps"), "fast"),
        (("options", "smoothing"), {"window": "x"}),
        (("graphs", "step", "states", 0, "shape"), [10**12]),
        (("graphs", "step", "states", 0, "shape"), [-1]),
        (("graphs", "step", "inputs", 0, "name"), "logits"),
    ],
)
def test_metadata_that_does_not_fit_its_graph_is_refused_when_the_file_is_opened(
    exported: Path, tmp_path: Path, path: tuple[Any, ...], value: Any
) -> None:
    data = _metadata(exported)
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(ModelFileError, match=r"odd\.onnx"):
        TSM.from_pretrained(_with_metadata(exported, tmp_path / "odd.onnx", json.dumps(data)))


def test_metadata_of_a_newer_version_says_what_to_update(exported: Path, tmp_path: Path) -> None:
    path = _with_metadata(exported, tmp_path / "new.onnx", json.dumps({**_metadata(exported), "schema": 99}))
    refused(lambda: TSM.from_pretrained(path), "newer", "99", "pip install --upgrade", kind=ModelFileError)
