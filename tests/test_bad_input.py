"""Bad input of every kind, through the public doors: our own error that says what was given and what to do, nothing else."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from effvision import TSM, EffvisionError, Predictor, Result, Session
from effvision.cards import get_card
from effvision.checkpoints import find_weights
from effvision.cli import main
from effvision.errors import (
    CardError,
    CheckpointError,
    DTypeError,
    InputError,
    ModelFileError,
    RangeError,
    ShapeError,
    SourceError,
    StateError,
)
from effvision.metadata import KEY, Metadata
from effvision.models.tsm.network import insert_temporal_shift
from effvision.models.tsm.smoothing import Smoothing
from effvision.sources import VideoWriter

CARD = "tsm-mobilenetv2-motion"
ADVICE = ("hint:", "must ", "need", "it takes", "give ", "leave out", "no pixels", "each stream has", "ends in")
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(x))


def _tiny(**options: Any) -> TSM:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), _Block(), _Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    network = insert_temporal_shift(layers, sites=["1.conv", "2.conv"]).eval()
    given = {"labels": ["a", "b", "c", "d"], "size": (16, 16), "short_side": 16, "fps": 10.0, **options}
    return TSM.from_network(network, **given)


def _frame(seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _plain(result: Any) -> dict[str, Any]:
    return {**result.to_dict(), "timing": None, "logits": result.logits.tolist()}


def _refused(call: Callable[[], Any], *words: str, kind: type[EffvisionError] = EffvisionError) -> str:
    """Call it; demand our error, with these words and with advice; return the message."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert any(advice in message for advice in ADVICE), f"says not what to do: {message}"
    return message


def _answers_or_refuses(call: Callable[[], Any]) -> bool:
    """Whether it answered; anything but a result, a session, a model or our own error fails the test."""
    try:
        answer = call()
    except EffvisionError:
        return False
    assert isinstance(answer, (Result, Session, Predictor, list))
    return True


@pytest.fixture(scope="module")
def model() -> TSM:
    return _tiny()


@pytest.fixture(scope="module")
def large() -> TSM:
    """Enlarges so much that a long thin frame would need gigabytes."""
    return _tiny(short_side=1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def exported(model: TSM, folder: Path) -> Path:
    return model.export(folder / "good.onnx", batch="dynamic").path


# --- frames -----------------------------------------------------------------------------------------------------------

DOORS: dict[str, Callable[[TSM, Any], Any]] = {
    "predict": lambda model, x: model.predict(x),
    "update": lambda model, x: model.session().update(x),
    "stream": lambda model, x: list(model.stream(iter([x]))),
}

BAD_FRAMES = [
    (np.zeros((24, 32), np.uint8), ShapeError, ["(24, 32)", "color='grey'"]),  # grey
    (np.zeros((24, 32, 1), np.uint8), ShapeError, ["(24, 32, 1)", "color='grey'"]),
    (np.zeros((24, 32, 4), np.uint8), ShapeError, ["(24, 32, 4)", "image[..., :3]"]),  # RGBA
    (np.zeros((3, 24, 32), np.uint8), ShapeError, ["(3, 24, 32)", "transpose"]),  # channels first
    (np.zeros((24, 32, 5), np.uint8), ShapeError, ["(24, 32, 5)"]),
    (np.zeros((1, 1, 24, 32, 3), np.uint8), ShapeError, ["(1, 1, 24, 32, 3)"]),
    (np.zeros((0, 32, 3), np.uint8), ShapeError, ["(0, 32, 3)"]),
    (np.zeros(3, np.uint8), ShapeError, ["(3,)"]),
    (np.zeros((24, 32, 3), np.int64), DTypeError, ["int64", "astype"]),
    (np.zeros((24, 32, 3), np.uint16), DTypeError, ["uint16", "257"]),
    (np.zeros((24, 32, 3), bool), DTypeError, ["bool"]),
    (np.zeros((24, 32, 3), complex), DTypeError, ["complex128"]),
    (np.zeros((24, 32, 3), object), DTypeError, ["object"]),
    (np.full((24, 32, 3), 1.5), RangeError, ["1.5", "0..1"]),
    (np.full((24, 32, 3), -0.01), RangeError, ["-0.01", "0..1"]),
    (np.full((24, 32, 3), np.nan, np.float32), RangeError, ["nan", "0..1"]),
    (np.full((24, 32, 3), np.inf, np.float32), RangeError, ["inf", "0..1"]),
    (Image.new("L", (32, 24)), ShapeError, ["mode L", "convert('RGB')"]),
    (Image.new("RGBA", (32, 24)), ShapeError, ["RGBA", "convert('RGB')"]),
    (torch.zeros(24, 32, dtype=torch.uint8), ShapeError, ["(24, 32)"]),
    (torch.full((3, 24, 32), 255.0), RangeError, ["255", "0..1"]),
    (torch.zeros(3, 24, 32, dtype=torch.int32), DTypeError, ["int32"]),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("bad", "kind", "words"), BAD_FRAMES, ids=lambda x: "-".join(x) if isinstance(x, list) else "")
def test_a_frame_that_is_none_is_refused(model: TSM, door: str, bad: Any, kind: type, words: list[str]) -> None:
    _refused(lambda: DOORS[door](model, bad), *words, kind=kind)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("bad", [None, object(), b"bytes", bytearray(4), {"frame": 1}, 1.5, {1, 2}, len, ..., True])
def test_an_object_that_is_no_picture_is_refused_by_its_type(model: TSM, door: str, bad: object) -> None:
    _refused(lambda: DOORS[door](model, bad), type(bad).__name__, kind=DTypeError)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (20000, 1), (1, 20000), (1, 2)])
def test_the_smallest_and_the_longest_frames_are_answered(model: TSM, door: str, height: int, width: int) -> None:
    assert DOORS[door](model, _frame(height=height, width=width))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("height", "width"), [(20000, 1), (1, 20000)])
def test_a_thin_frame_that_would_fill_the_memory_is_refused(large: TSM, door: str, height: int, width: int) -> None:
    _refused(lambda: DOORS[door](large, _frame(height=height, width=width)), "20000", "crop", kind=InputError)


# --- a refused frame leaves the session as it was -----------------------------------------------------------------------

BAD_UPDATES: list[tuple[Any, dict[str, Any]]] = [
    (np.zeros((24, 32), np.uint8), {"timestamp": 0.2}),
    (np.full((24, 32, 3), np.nan), {"timestamp": 0.2, "source": "cam"}),
    (None, {"timestamp": 0.2}),
    (_frame(height=20000, width=1), {"timestamp": 0.2}),  # found out only after the clock was asked
    (_frame(height=20000, width=1), {"timestamp": 0.2, "source": "cam"}),
    (np.zeros((24, 32, 4), np.uint8), {"timestamp": -5.0}),  # would be a seek
    (np.zeros((24, 32, 4), np.uint8), {"timestamp": 99.0}),  # would be a gap
    (np.zeros((24, 32, 4), np.uint8), {"timestamp": 0.2, "source": "other"}),
    *((_frame(1), {"timestamp": bad}) for bad in (np.nan, np.inf, -np.inf, "0.2", b"1", True, [0.2], 1j, 10**400)),
    *((_frame(1), {"timestamp": np.timedelta64(bad, "s")}) for bad in (1, "NaT")),
    *((_frame(1), {"timestamp": 0.2, "source": bad}) for bad in (5, b"cam", ["cam"], np.zeros(3), object())),
    (_frame(1), {"timestamp": 0.2, "typo": 1}),
]


@pytest.mark.parametrize(("bad", "options"), BAD_UPDATES)
def test_after_a_refused_frame_the_stream_goes_on_as_if_it_had_not_come(
    large: TSM, bad: Any, options: dict[str, Any]
) -> None:
    untouched, session = large.session(), large.session()
    for one in (untouched, session):
        one.update(_frame(2), timestamp=0.0, source="cam")
        one.update(_frame(3), timestamp=0.1, source="cam")
    _refused(lambda: session.update(bad, **options))
    for step, seed in enumerate(range(4, 7)):
        given = {"timestamp": 0.2 + 0.1 * step, "source": "cam"}
        assert _plain(session.update(_frame(seed), **given)) == _plain(untouched.update(_frame(seed), **given))


def test_one_refused_frame_of_many_leaves_every_session_as_it_was(large: TSM) -> None:
    sessions, alone = [large.session(), large.session()], large.session()
    for session in (*sessions, alone):
        session.update(_frame(2), timestamp=0.0)
    for bad in (np.zeros((2, 2), np.uint8), _frame(height=20000, width=1)):
        at = [{"timestamp": 0.1}, {"timestamp": 0.1}]
        _refused(lambda bad=bad, at=at: large.update_many(sessions, [_frame(9), bad], at))
    wanted = _plain(alone.update(_frame(3), timestamp=0.1))
    for session in sessions:
        result = _plain(session.update(_frame(3), timestamp=0.1))
        assert result == wanted


@pytest.mark.parametrize(
    ("sessions", "inputs", "options"),
    [(1, 2, None), (2, 1, None), (2, 2, [{}]), (0, 1, None)],  # one of each is needed
)
def test_lengths_that_differ_are_refused(model: TSM, sessions: int, inputs: int, options: Any) -> None:
    opened = [model.session() for _ in range(sessions)]
    _refused(lambda: model.update_many(opened, [_frame()] * inputs, options), kind=InputError)


def test_a_session_of_another_model_or_given_twice_is_refused(model: TSM, large: TSM) -> None:
    one, other = model.session(), large.session()
    _refused(lambda: model.update_many([one, one], [_frame()] * 2), "twice", kind=InputError)
    _refused(lambda: model.update_many([one, other], [_frame()] * 2), "this predictor", kind=InputError)


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [[], (), iter([]), (frame for frame in []), np.zeros((0, 24, 32, 3), np.uint8)])
@pytest.mark.parametrize("door", ["predict", "stream"])
def test_no_frame_at_all_is_refused(model: TSM, door: str, empty: Any) -> None:
    run = model.predict if door == "predict" else lambda x: list(model.stream(x))
    with pytest.raises(InputError, match=r"no frame|at least one frame"):
        run(empty)


@pytest.mark.parametrize("error", [KeyError("mine"), ValueError("mine"), OSError("mine"), RuntimeError("mine")])
def test_an_error_of_the_users_own_iterator_passes_through_unchanged(model: TSM, error: Exception) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield _frame()
        raise error

    with pytest.raises(type(error)) as caught:
        model.predict(frames())
    assert caught.value is error
    stream = model.stream(frames())
    assert next(stream).label
    with pytest.raises(type(error)) as caught:
        next(stream)
    assert caught.value is error


def _cut(path: Path, target: Path, share: float) -> Path:
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6])
def test_a_video_that_is_cut_short_is_refused(model: TSM, folder: Path, share: float) -> None:
    whole = folder / "whole.avi"
    if not whole.is_file():
        with VideoWriter(whole, fps=10, size=(48, 64)) as video:
            for seed in range(12):
                video.write(_frame(seed, 48, 64))
    bad = _cut(whole, folder / f"cut{share}.avi", share)
    for door in (model.predict, lambda x: list(model.stream(x))):
        with pytest.raises(SourceError, match=bad.name):
            door(bad)


@pytest.mark.parametrize("name", ["text.mp4", "text.avi", "text.jpg", "text", "text.onnx"])
def test_a_file_of_text_is_refused_whatever_its_name(model: TSM, folder: Path, name: str) -> None:
    (folder / name).write_text("not a film\n" * 40)
    for door in (model.predict, lambda x: list(model.stream(x))):
        with pytest.raises(SourceError, match=name):
            door(folder / name)


def test_a_missing_file_suggests_the_one_that_was_meant(model: TSM, folder: Path) -> None:
    (folder / "holiday.mp4").write_bytes(b"")
    _refused(lambda: model.predict(folder / "holidya.mp4"), "holidya.mp4", "holds holiday.mp4", kind=SourceError)


# --- cards, checkpoints -----------------------------------------------------------------------------------------------


def test_an_unknown_card_suggests_the_near_one() -> None:
    _refused(lambda: TSM.from_pretrained("tsm-mobilnetv2-motoin"), "tsm-mobilnetv2-motoin", CARD, kind=CardError)
    _refused(lambda: TSM.untrained("tsm-mobilnetv2-motoin"), CARD, kind=CardError)


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
    bad = _cut(whole, folder / f"cut{share}{suffix}", share)
    _refused(lambda: _load(bad), bad.name, kind=CheckpointError)


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "text.pth.tar", "text.pt", "text.ckpt"])
def test_a_text_file_is_no_checkpoint(folder: Path, name: str) -> None:
    (folder / name).write_text("hello, these are no weights\n")
    message = _refused(lambda: _load(folder / name), name, kind=CheckpointError)
    assert "run code" not in message and "(101)" not in message


@pytest.mark.parametrize(
    "content", [[1, 2], torch.zeros(3), {"a": 1}, {1: torch.zeros(2)}, {}, {"state_dict": [1]}, {"state_dict": {}}]
)
def test_a_checkpoint_that_holds_no_weights_of_this_network_is_refused(folder: Path, content: Any) -> None:
    torch.save(content, folder / "other.pth")
    _refused(lambda: _load(folder / "other.pth"), kind=CheckpointError)


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
    _refused(lambda: _load(tmp_path / name), name, kind=CheckpointError)
    _refused(lambda: TSM.from_pretrained(tmp_path / name))  # without a card either
    assert not canary.exists()
    assert main(["export", str(tmp_path / name), "--card", CARD, "--out", str(tmp_path / "m.onnx")]) == 1
    assert not canary.exists()


def test_the_malicious_checkpoint_of_these_tests_would_work_where_nothing_refuses_it(tmp_path: Path) -> None:
    torch.save({"evil": _Payload(tmp_path / "executed")}, tmp_path / "evil.pth")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "executed").is_dir()


def test_the_refusal_of_a_pickle_does_not_tell_how_to_run_it_all_the_same(tmp_path: Path) -> None:
    torch.save({"evil": _Payload(tmp_path / "executed")}, tmp_path / "evil.pth")
    message = _refused(lambda: _load(tmp_path / "evil.pth"), "run code", kind=CheckpointError)
    assert "weights_only" not in message


# --- exported files ---------------------------------------------------------------------------------------------------


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
    _refused(lambda: TSM.from_pretrained(path), "foreign.onnx", "'pvcnn'", kind=ModelFileError)


@pytest.mark.parametrize("key", [None, "ultralytics"])
def test_an_onnx_file_without_our_metadata_is_refused(exported: Path, tmp_path: Path, key: str | None) -> None:
    path = _with_metadata(exported, tmp_path / "bare.onnx", None if key is None else "{}", key or "")
    _refused(lambda: TSM.from_pretrained(path), "bare.onnx", key or "none", "export", kind=ModelFileError)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_onnx_file_is_refused(exported: Path, tmp_path: Path, share: float) -> None:
    bad = _cut(exported, tmp_path / "cut.onnx", share)
    with pytest.raises(ModelFileError, match=r"cut\.onnx"):
        TSM.from_pretrained(bad)
    assert main(["info", str(bad)]) == 1


def test_a_text_file_a_folder_and_nothing_are_no_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("graph { }")
    (tmp_path / "folder.onnx").mkdir()
    for name in ("text.onnx", "folder.onnx", "absent.onnx"):
        with pytest.raises(ModelFileError, match=name):
            TSM.from_pretrained(tmp_path / name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=5) | st.just(10**30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def _places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in inside for place in _places(value, (*path, key)))]


def _damage(data: Any, draw: st.DataObject) -> Any:
    """Replace or remove one value at any depth."""
    *path, last = draw.draw(st.sampled_from([place for place in _places(data) if place]), label="place")
    data = json.loads(json.dumps(data))
    parent = data
    for key in path:
        parent = parent[key]
    if draw.draw(st.booleans(), label="remove"):
        del parent[last]
    else:
        parent[last] = draw.draw(JSON, label="new value")
    return data


@settings(FUZZ, max_examples=150)
@given(draw=st.data())
def test_damaged_metadata_is_refused_or_does_no_harm(exported: Path, folder: Path, draw: st.DataObject) -> None:
    text = json.dumps(_damage(_metadata(exported), draw))
    path = _with_metadata(exported, folder / "damaged.onnx", text)
    opened: list[TSM] = []
    if _answers_or_refuses(lambda: opened.append(TSM.from_pretrained(path)) or opened):
        _answers_or_refuses(lambda: opened[0].predict(_frame()))


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
    _refused(lambda: TSM.from_pretrained(path), "newer", "99", "pip install --upgrade", kind=ModelFileError)


# --- saved sessions ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(model: TSM, folder: Path) -> bytes:
    session = model.session(smoothing=Smoothing(window=3, masked=(1,), merged={0: 2}, confirm=True, start=2))
    for step in range(3):
        session.update(_frame(step), timestamp=step / 10, source="cam")
    return session.save(folder / "good.npz").read_bytes()


def _open_and_use(model: TSM, path: Path) -> None:
    """Whatever opens must work: a step, a reset, a step, another save."""

    def use() -> list[Any]:
        session = model.session(path=path)
        first = session.update(_frame(5), timestamp=0.3, source="cam")
        session.reset()
        second = session.update(_frame(6), timestamp=0.4, source="cam")
        session.save(path)
        return [first, second]

    _answers_or_refuses(use)


def test_the_session_file_of_these_tests_opens(model: TSM, saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_bytes(saved)
    assert model.session(path=tmp_path / "s.npz").update(_frame(5), timestamp=0.3).index == 3


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
    _open_and_use(model, _with_header(saved, folder / "odd.npz", _damage(_header(saved), draw)))


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
        _tiny(size=(32, 32), short_side=32).session(path=tmp_path / "good.npz")


# --- garbage in every argument ----------------------------------------------------------------------------------------

SHAPES = st.one_of(
    arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3)),
)
ARRAYS = arrays.arrays(dtype=arrays.scalar_dtypes() | arrays.byte_string_dtypes(max_len=2), shape=SHAPES)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=6),
    st.binary(max_size=6),
    st.builds(object),
    st.just(10**400),
    st.just(np.timedelta64("NaT")),
    st.just("x" * 5000),
    st.just("a\0b"),
    st.just("\udcff"),  # a file name that is no UTF-8
)
GARBAGE = st.recursive(
    ARRAYS | LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2) | st.tuples(inner)
    ),
    max_leaves=4,
)
NUMBERS = LEAVES | ARRAYS | st.sampled_from([np.float32(12), np.int64(3), np.bool_(True), np.longdouble("1e4000")])


@settings(FUZZ, max_examples=200)
@given(x=GARBAGE)
def test_any_garbage_for_a_frame_gives_an_answer_or_our_error(model: TSM, x: Any) -> None:
    _answers_or_refuses(lambda: model.session().update(x))
    _answers_or_refuses(lambda: model.predict(x))
    _answers_or_refuses(lambda: list(model.stream(x)))
    _answers_or_refuses(lambda: list(model.stream(iter([(_frame(), x), x]))))


@settings(FUZZ, max_examples=200)
@given(stamps=st.lists(NUMBERS, min_size=1, max_size=4), source=LEAVES | ARRAYS)
def test_any_timestamp_and_source_gives_an_answer_or_our_error(model: TSM, stamps: list[Any], source: Any) -> None:
    session = model.session()
    session.update(_frame(), source="cam")
    for stamp in stamps:
        _answers_or_refuses(lambda stamp=stamp: session.update(_frame(), timestamp=stamp))
        _answers_or_refuses(lambda stamp=stamp: session.update(_frame(), timestamp=stamp, source=source))
    assert session.update(_frame()).label


@FUZZ
@given(fps=NUMBERS, gap=NUMBERS, smoothing=LEAVES | ARRAYS)
def test_any_session_option_gives_a_session_that_works_or_our_error(
    model: TSM, folder: Path, fps: Any, gap: Any, smoothing: Any
) -> None:
    for options in ({"fps": fps}, {"max_gap_s": gap}, {"smoothing": smoothing}):

        def use(options: dict[str, Any] = options) -> Session:
            session = model.session(**options)
            assert session.update(_frame(), timestamp=0.0).label
            assert session.update(_frame(), timestamp=1e9).label
            session.save(folder / "any.npz")
            return model.session(path=folder / "any.npz")

        _answers_or_refuses(use)


@FUZZ
@given(window=NUMBERS, masked=GARBAGE, merged=GARBAGE, start=NUMBERS)
def test_any_smoothing_gives_a_session_that_works_or_our_error(
    model: TSM, folder: Path, window: Any, masked: Any, merged: Any, start: Any
) -> None:
    for rule in ({"window": window}, {"masked": masked}, {"merged": merged}, {"start": start, "confirm": True}):

        def use(rule: dict[str, Any] = rule) -> Path | Session:
            session = model.session(smoothing=Smoothing(**rule))
            assert [session.update(_frame(seed)).label for seed in range(3)]
            session.save(folder / "any.npz")
            return model.session(path=folder / "any.npz")

        _answers_or_refuses(use)


def test_a_smoothing_that_answers_a_class_the_model_does_not_have_is_refused_at_once(model: TSM) -> None:
    for rule in (Smoothing(merged={0: 99}), Smoothing(start=4, confirm=True), Smoothing(merged={0: -1})):
        with pytest.raises(InputError):
            model.session(smoothing=rule)


def test_an_option_that_does_not_exist_is_refused_by_name_wherever_it_is_given(model: TSM) -> None:
    _refused(lambda: model.session(smoothign=None), "smoothign", kind=InputError)
    _refused(lambda: list(model.stream([_frame()], frames_per_s=3)), "frames_per_s", kind=InputError)
    with pytest.raises(InputError, match=r"typo.*source, timestamp"):
        model.session().update(_frame(), typo=1)


@FUZZ
@given(source=GARBAGE.filter(lambda x: x is not None), card=LEAVES)
def test_any_name_of_a_model_gives_our_error(source: Any, card: Any) -> None:
    _answers_or_refuses(lambda: TSM.from_pretrained(source, runtime="torch"))
    _answers_or_refuses(lambda: TSM.from_pretrained("absent.pth", card=card))
    _answers_or_refuses(lambda: Predictor.from_pretrained(source))


@pytest.mark.parametrize("bad", [5, [], {}, b"cpu", np.zeros(2), object(), "\0", "gpu", 1.5, -1], ids=repr)
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
    _refused(lambda: model.export(tmp_path / "m.onnx", **options), f"`{next(iter(options))}`", kind=InputError)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [5, None, [], b"m.onnx", object(), "", "a\0b.onnx", "x" * 5000 + ".onnx"])
def test_a_path_that_cannot_be_written_is_refused(model: TSM, bad: Any) -> None:
    result, session = model.predict(_frame()), model.session()
    for write in (session.save, model.export, lambda path: result.save(path, _frame())):
        with pytest.raises(EffvisionError):
            write(bad)


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
