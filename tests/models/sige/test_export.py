"""SIGE in one exported file: the same pictures, steps and sessions as in PyTorch, and without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from effvision import SIGE
from effvision.errors import ExportError, InputError, StateError
from effvision.models.sige.scenes_network import SceneGenerator

NAMES = ("sky", "grass", "water", "road")
SIZE = (64, 48)


@pytest.fixture(scope="module")
def model() -> SIGE:
    torch.manual_seed(0)
    network = SceneGenerator(channels=4, widths=(12, 10, 8, 6), hidden=(8, 8, 6, 6))
    return SIGE.from_network(network, labels=NAMES, size=SIZE)


@pytest.fixture(scope="module")
def report(model: SIGE, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return model.export(tmp_path_factory.mktemp("sige") / "m.onnx", batch="dynamic")


@pytest.fixture(scope="module")
def exported(report: Any) -> SIGE:
    return SIGE.from_pretrained(report, threads=2)


def test_an_exported_file_edits_like_pytorch(model: SIGE, exported: SIGE) -> None:
    assert exported.runtime.name == "onnx" and exported.labels == NAMES and exported.size == SIZE
    assert exported.metadata.weights_sha256 == model.metadata.weights_sha256
    for mode in ("exact", "frozen"):
        one, other = model.session(mode=mode), exported.session(mode=mode)
        pictures = []
        for labels in model.example_updates(5, seed=1):
            wanted, found = one.update(labels), other.update(labels)
            assert np.abs(wanted.image.astype(int) - found.image).max() <= 1  # rounding to whole numbers
            assert np.array_equal(wanted.changed, found.changed) and found.dense_macs == wanted.dense_macs
            pictures.append(found.image)
        assert found.computed_fraction < 1 and other.can_undo == 4
        assert np.array_equal(other.undo(to=1).image, pictures[1]) and np.array_equal(other.redo().image, pictures[2])
        assert other.promise == one.promise


def test_a_saved_session_goes_on_in_the_file_and_not_in_another_runtime(
    model: SIGE, exported: SIGE, tmp_path: Path
) -> None:
    first, second, third = model.example_updates(3, seed=2)
    session = exported.session()
    session.update(first), session.update(second)
    path = session.save(tmp_path / "session.npz")
    restored = exported.session(path=path)
    assert np.array_equal(restored.update(third).image, session.update(third).image)
    broken = np.load(path)
    assert all(array.dtype != object for array in broken.values())
    with pytest.raises(StateError):
        SIGE.from_network(nn.Conv2d(4, 3, 1), labels=NAMES, size=SIZE).session(path=path)


def test_a_file_edits_where_there_is_no_pytorch(report: Any) -> None:
    code = f"""
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
import numpy as np
from effvision import SIGE
model = SIGE.from_pretrained({str(report.path)!r})
session, labels = model.session(), np.zeros({SIZE}, np.uint8)
first = session.update(labels)
labels[20:24, 20:24] = 2
assert 0 < session.update(labels).computed_fraction < 0.9
assert np.array_equal(session.undo().image, first.image)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_a_file_cannot_do_is_refused_with_what_can(model: SIGE, exported: SIGE, tmp_path: Path) -> None:
    labels = next(iter(model.example_updates(1, seed=0)))
    with pytest.raises(InputError, match=r"mode 'reference'.*\n.*runtime='torch'"):
        exported.session(mode="reference").update(labels)
    for wrong, text in (
        ({"half": True}, "float32"),
        ({"int8": "cpu"}, "float32"),
        ({"batch": 2}, "one picture at a time"),
    ):
        with pytest.raises(InputError, match=text):
            model.export(tmp_path / "m.onnx", **wrong)
    with pytest.raises(InputError, match="copy that file"):
        exported.export(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="no kit"):
        model.export_kit("jp62", tmp_path / "kit")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_cut_is_named_and_can_be_written_whole(tmp_path: Path) -> None:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

        def forward(self, labels: torch.Tensor) -> torch.Tensor:
            x = self.a(labels)
            return self.b(x * x.mean((2, 3), keepdim=True)).tanh()

    torch.manual_seed(0)
    model = SIGE.from_network(Squeezed(), labels=NAMES, size=SIZE)
    with pytest.raises(ExportError, match=r"`mean` \(mean\): it works over the whole map"):
        model.export(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    whole = SIGE.from_pretrained(model.export(tmp_path / "m.onnx", blocks=False))
    first, second = model.example_updates(2, seed=0)
    session = whole.session()
    session.update(first)
    assert session.update(second).computed_fraction == 1
