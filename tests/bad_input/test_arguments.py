"""Garbage in every argument, and what the command line says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effvision import TSM, EffvisionError, Predictor, Session
from effvision.checkpoints import read_checkpoint
from effvision.cli import main
from effvision.errors import InputError
from effvision.models.tsm.smoothing import Smoothing
from effvision.runtime.onnx import OnnxRuntime
from effvision.sources import VideoWriter
from effvision.viz import save_image
from refusals import ARRAYS, CARD, FUZZ, GARBAGE, LEAVES, NUMBERS, answers_or_refuses, refused, some_frame


@settings(FUZZ, max_examples=200)
@given(x=GARBAGE)
def test_any_garbage_for_a_frame_gives_an_answer_or_our_error(model: TSM, x: Any) -> None:
    answers_or_refuses(lambda: model.session().update(x))
    answers_or_refuses(lambda: model.predict(x))
    answers_or_refuses(lambda: list(model.stream(x)))
    answers_or_refuses(lambda: list(model.stream(iter([(some_frame(), x), x]))))


@settings(FUZZ, max_examples=200)
@given(stamps=st.lists(NUMBERS, min_size=1, max_size=4), source=LEAVES | ARRAYS)
def test_any_timestamp_and_source_gives_an_answer_or_our_error(model: TSM, stamps: list[Any], source: Any) -> None:
    session = model.session()
    session.update(some_frame(), source="cam")
    for stamp in stamps:
        answers_or_refuses(lambda stamp=stamp: session.update(some_frame(), timestamp=stamp))
        answers_or_refuses(lambda stamp=stamp: session.update(some_frame(), timestamp=stamp, source=source))
    assert session.update(some_frame()).label


@FUZZ
@given(fps=NUMBERS, gap=NUMBERS, smoothing=LEAVES | ARRAYS)
def test_any_session_option_gives_a_session_that_works_or_our_error(
    model: TSM, folder: Path, fps: Any, gap: Any, smoothing: Any
) -> None:
    for options in ({"fps": fps}, {"max_gap_s": gap}, {"smoothing": smoothing}):

        def use(options: dict[str, Any] = options) -> Session:
            session = model.session(**options)
            assert session.update(some_frame(), timestamp=0.0).label
            assert session.update(some_frame(), timestamp=1e9).label
            session.save(folder / "any.npz")
            return model.session(path=folder / "any.npz")

        answers_or_refuses(use)


@FUZZ
@given(window=NUMBERS, masked=GARBAGE, merged=GARBAGE, start=NUMBERS)
def test_any_smoothing_gives_a_session_that_works_or_our_error(
    model: TSM, folder: Path, window: Any, masked: Any, merged: Any, start: Any
) -> None:
    for rule in ({"window": window}, {"masked": masked}, {"merged": merged}, {"start": start, "confirm": True}):

        def use(rule: dict[str, Any] = rule) -> Path | Session:
            session = model.session(smoothing=Smoothing(**rule))
            assert [session.update(some_frame(seed)).label for seed in range(3)]
            session.save(folder / "any.npz")
            return model.session(path=folder / "any.npz")

        answers_or_refuses(use)


def test_a_smoothing_that_answers_a_class_the_model_does_not_have_is_refused_at_once(model: TSM) -> None:
    for rule in (Smoothing(merged={0: 99}), Smoothing(start=4, confirm=True), Smoothing(merged={0: -1})):
        with pytest.raises(InputError):
            model.session(smoothing=rule)


def test_an_option_that_does_not_exist_is_refused_by_name_wherever_it_is_given(model: TSM) -> None:
    refused(lambda: model.session(smoothign=None), "smoothign", kind=InputError)
    refused(lambda: list(model.stream([some_frame()], frames_per_s=3)), "frames_per_s", kind=InputError)
    with pytest.raises(InputError, match=r"typo.*source, timestamp"):
        model.session().update(some_frame(), typo=1)


@FUZZ
@given(source=GARBAGE.filter(lambda x: x is not None), card=LEAVES)
def test_any_name_of_a_model_gives_our_error(source: Any, card: Any) -> None:
    answers_or_refuses(lambda: TSM.from_pretrained(source, runtime="torch"))
    answers_or_refuses(lambda: TSM.from_pretrained("absent.pth", card=card))
    answers_or_refuses(lambda: Predictor.from_pretrained(source))


def without_address(thing: object) -> str:
    """How a case is called: all processes that share the tests have to call it the same."""
    return repr(thing).partition(" object at ")[0]


@pytest.mark.parametrize("bad", [5, [], {}, b"cpu", np.zeros(2), object(), "\0", "gpu", 1.5, -1], ids=without_address)
@pytest.mark.parametrize("name", ["device", "threads", "runtime"])
def test_any_option_of_loading_gives_our_error(exported: Path, name: str, bad: Any) -> None:
    if (name, bad if isinstance(bad, int) else None) == ("threads", 5):
        bad = 10**12  # five threads are fine
    with pytest.raises(InputError, match=name):
        TSM.from_pretrained(exported, **{name: bad})


@pytest.mark.parametrize(
    "options",
    [
        *({"batch": bad} for bad in (0, -1, True, 2.0, "two", [], np.zeros(3), 10**12, 10**400)),
        *({"opset": bad} for bad in (12, 21, True, 17.0, 17.5, "17", [], np.zeros(3), 10**400)),
        *({"steps": bad} for bad in (0, 15, True, 16.0, "16", [], np.zeros(3))),
    ],
    ids=repr,
)
def test_an_export_option_out_of_range_is_refused_before_any_work(
    model: TSM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("it began to work"))
    refused(lambda: model.export(tmp_path / "m.onnx", **options), f"`{next(iter(options))}`", kind=InputError)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [5, None, [], b"m.onnx", object(), "", "a\0b.onnx", "x" * 5000 + ".onnx"])
def test_a_path_that_cannot_be_written_is_refused(model: TSM, bad: Any) -> None:
    result, session = model.predict(some_frame()), model.session()
    writers: list[Callable[[Any], Any]] = [
        session.save,
        model.export,
        lambda path: result.save(path, some_frame()),
        lambda path: save_image(path, some_frame()),
        lambda path: VideoWriter(path, fps=10, size=(24, 32)),
        lambda path: TSM.write_sample(path, card=CARD),
    ]
    for write in writers:
        with pytest.raises(EffvisionError):
            write(bad)


@pytest.mark.parametrize("bad", [5, None, [], b"m.onnx", object(), "", "a\0b.onnx", "x" * 5000 + ".onnx"])
def test_a_path_that_cannot_be_read_is_refused(model: TSM, bad: Any) -> None:
    for read in (read_checkpoint, OnnxRuntime.load, lambda path: Session.load(model, path)):
        with pytest.raises(EffvisionError):
            read(bad)


def test_the_command_line_says_what_is_wrong_in_a_few_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "text.mp4").write_text("not a film")
    for arguments, code, word in (
        (["run", "tsm-mobilnetv2-motoin", "clip.mp4"], 2, CARD),
        (["run", "absent.onnx", "clip.mp4"], 1, "absent.onnx"),
        (["run", str(folder / "text.pth"), "clip.mp4", "--runtime", "torch", "--card", CARD], 1, "text.pth"),
        (["run", CARD, str(folder / "text.mp4"), "--runtime", "torch"], 1, "text.mp4"),
        (["run", CARD, str(folder / "clip.mp4"), "--save", "a.gif"], 2, "a.gif"),
        (["run", CARD, "clip.mp4", "--device", "gpu", "--runtime", "torch"], 2, "gpu"),
    ):
        assert main(arguments) == code, arguments
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith("effvision: "), told.err
        assert word in told.err and len(told.err.splitlines()) <= 6, told.err
