"""Cards that do not exist; checkpoints that are damaged, foreign, or ask to run code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from effvision import TSM
from effvision.cards import get_card
from effvision.checkpoints import find_weights
from effvision.cli import main
from effvision.errors import CardError, CheckpointError
from refusals import CARD, cut_short, refused


def test_an_unknown_card_suggests_the_near_one() -> None:
    refused(lambda: TSM.from_pretrained("tsm-mobilnetv2-motoin"), "tsm-mobilnetv2-motoin", CARD, kind=CardError)
    refused(lambda: TSM.untrained("tsm-mobilnetv2-motoin"), CARD, kind=CardError)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    torch.save({"a": torch.zeros(64)}, folder / "good.pth")
    return folder / "good.pth"


def _load(path: Path) -> TSM:
    return TSM.from_pretrained(path, card=CARD, runtime="torch")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_that_is_cut_short_is_refused(checkpoint: Path, folder: Path, suffix: str, share: float) -> None:
    whole = checkpoint if suffix == ".pth" else find_weights(get_card(CARD))
    bad = cut_short(whole, folder / f"cut{share}{suffix}", share)
    refused(lambda: _load(bad), bad.name, kind=CheckpointError)


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "text.pth.tar", "text.pt", "text.ckpt"])
def test_a_text_file_is_no_checkpoint(folder: Path, name: str) -> None:
    (folder / name).write_text("hello, these are no weights\n")
    message = refused(lambda: _load(folder / name), name, kind=CheckpointError)
    assert "run code" not in message and "(101)" not in message


@pytest.mark.parametrize(
    "content", [[1, 2], torch.zeros(3), {"a": 1}, {1: torch.zeros(2)}, {}, {"state_dict": [1]}, {"state_dict": {}}]
)
def test_a_checkpoint_that_holds_no_weights_of_this_network_is_refused(folder: Path, content: Any) -> None:
    torch.save(content, folder / "other.pth")
    refused(lambda: _load(folder / "other.pth"), kind=CheckpointError)


class _Payload:
    """What a thief would put into a checkpoint: unpickling it makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle4", "tar", "safetensors", "state_dict"])
def test_a_pickle_that_asks_to_run_code_is_never_executed(tmp_path: Path, form: str) -> None:
    canary = tmp_path / "executed"
    content: dict[str, Any] = {"w": torch.zeros(2), "evil": _Payload(canary)}
    name = {"safetensors": "evil.safetensors", "tar": "evil.pth.tar"}.get(form, "evil.pth")
    if form in ("zip", "tar", "state_dict"):
        torch.save({"state_dict": content} if form == "state_dict" else content, tmp_path / name)
    elif form == "legacy":
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=False)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(_Payload(canary), protocol=4 if form == "pickle4" else 2))
    refused(lambda: _load(tmp_path / name), name, kind=CheckpointError)
    refused(lambda: TSM.from_pretrained(tmp_path / name))  # without a card either
    assert not canary.exists()
    assert main(["export", str(tmp_path / name), "--card", CARD, "--out", str(tmp_path / "m.onnx")]) == 1
    assert not canary.exists()


def test_the_malicious_checkpoint_of_these_tests_would_work_where_nothing_refuses_it(tmp_path: Path) -> None:
    torch.save({"evil": _Payload(tmp_path / "executed")}, tmp_path / "evil.pth")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "executed").is_dir()


def test_the_refusal_of_a_pickle_does_not_tell_how_to_run_it_all_the_same(tmp_path: Path) -> None:
    torch.save({"evil": _Payload(tmp_path / "executed")}, tmp_path / "evil.pth")
    message = refused(lambda: _load(tmp_path / "evil.pth"), "run code", kind=CheckpointError)
    assert "weights_only" not in message
