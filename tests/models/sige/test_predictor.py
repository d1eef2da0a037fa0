"""A predictor of edits: what a session answers, forgets, keeps and saves, and what is left when something goes wrong."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edits_made import COLOURS, NAMES, SIZE, Labels, Painter, painted, painter, some_labels, whole  # noqa: E402
from effvision import SIGE  # noqa: E402
from effvision.edits import Edit  # noqa: E402
from effvision.errors import (  # noqa: E402
    CheckpointError,
    DTypeError,
    EffvisionError,
    InputError,
    RangeError,
    RuntimeFailure,
    ShapeError,
    StateError,
    StreamingError,
)
from effvision.models.sige import scenes  # noqa: E402
from effvision.models.sige.session import EditSession  # noqa: E402
from effvision.session import Session  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def steady_costs() -> Iterator[None]:
    """What is computed in parts must not depend on how busy this machine is."""
    from effvision.incremental import engine

    machine = replace(
        engine.measured(torch.device("cpu"), torch.float32),
        mac_s=3e-11, element_s=6e-10, kept_s=6e-10, call_s=1e-7, tile_factor=2.0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "measured", lambda device, dtype: machine)
        yield


@pytest.fixture(scope="module")
def model() -> SIGE:
    """Sessions are independent, so that tests share it."""
    return painter()


@pytest.fixture
def labels() -> Labels:
    return some_labels()


def pixels(result: Any) -> list[Any]:
    return [result.image.tolist(), result.labels.tolist()]


# --- what a session answers -------------------------------------------------------------------------------------------


def test_an_exact_session_gives_the_full_pass_for_every_edit(model: SIGE, labels: Labels) -> None:
    session = model.session(mode="exact")
    first = session.update(labels)
    assert first.computed_fraction == 1 and first.changed.all() and first.image.shape == (*SIZE, 3)
    now = labels
    for top, left, label in ((3, 4, 3), (0, 0, 2), (36, 52, 0), (18, 20, 3)):
        now = painted(now, top, left, label)
        result = session.update(now)
        wanted = whole(model, now)
        assert np.abs(result.image.astype(int) - wanted).max() <= 1 and result.image.dtype == np.uint8
        assert 0 < result.computed_fraction < 1 and 0 < result.macs < result.dense_macs
        assert np.array_equal(result.labels, now)


def test_nothing_changes_outside_of_what_a_result_calls_changed(model: SIGE, labels: Labels) -> None:
    session = model.session(mode="local")
    before = session.update(labels).image
    result = session.update(painted(labels, 8, 9, 3))
    assert result.changed[8:12, 9:13].all() and 16 <= result.changed.sum() < 500
    assert np.array_equal(result.image[~result.changed], before[~result.changed])
    assert not np.array_equal(result.image[8:12, 9:13], before[8:12, 9:13])


def test_the_same_map_again_computes_nothing_and_is_no_step(model: SIGE, labels: Labels) -> None:
    session = model.session()
    first = session.update(labels)
    again = session.update(labels.copy())
    assert again.macs == again.computed_fraction == 0 and not again.changed.any() and not again.how
    assert np.array_equal(again.image, first.image) and session.can_undo == 0 and again.index == 1


def test_a_result_stays_what_it_was(model: SIGE, labels: Labels) -> None:
    session = model.session()
    first = session.update(labels)
    kept = first.image.copy()
    first.image[:] = 7  # a user's own copy
    session.update(painted(labels, 3, 4, 3))
    session.undo()
    labels[:] = 3
    assert np.array_equal(session.update(some_labels()).image, kept)
    with pytest.raises(ValueError, match="read-only"):
        first.labels[0, 0] = 1  # type: ignore[index]


def test_predict_is_one_update_of_a_fresh_session(model: SIGE, labels: Labels) -> None:
    result = model.predict(labels)
    assert isinstance(result, Edit) and result.index == 0 and result.computed_fraction == 1
    assert np.abs(result.image.astype(int) - whole(model, labels)).max() <= 1


# --- masks ------------------------------------------------------------------------------------------------------------


def test_what_changed_outside_of_a_mask_is_not_taken(model: SIGE, labels: Labels) -> None:
    session, other = model.session(), model.session()
    session.update(labels)
    other.update(labels)
    wanted, both = painted(labels, 3, 4, 3), painted(painted(labels, 3, 4, 3), 30, 40, 0)
    mask = np.zeros(SIZE, bool)
    mask[:10, :10] = True
    assert pixels(session.update(both, mask=mask)) == pixels(other.update(wanted))
    assert np.array_equal(session.labels, wanted)


def test_a_change_outside_of_a_mask_is_found_on_request(model: SIGE, labels: Labels) -> None:
    session = model.session()
    first = session.update(labels)
    mask = np.zeros(SIZE, bool)
    mask[3:7, 4:8] = True
    with pytest.raises(
        InputError, match=r"16 labels changed outside of the mask, the first at row 30, column 40\nhint:"
    ):
        session.update(painted(painted(labels, 3, 4, 3), 30, 40, 0), mask=mask, check=True)
    assert np.array_equal(session.update(labels).image, first.image)
    assert session.update(painted(labels, 3, 4, 3), mask=mask, check=True).macs > 0


@pytest.mark.parametrize(
    ("mask", "error"),
    [(np.ones(SIZE, np.uint8), DTypeError), (np.ones((3, 3), bool), ShapeError), ("x", DTypeError)],
)
def test_a_mask_that_is_none_is_refused(model: SIGE, labels: Labels, mask: Any, error: type) -> None:
    with pytest.raises(error, match="hint:"):
        model.session().update(labels, mask=mask)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_undo_and_redo_give_back_picture_and_labels_bit_for_bit(model: SIGE, labels: Labels) -> None:
    session = model.session()
    states, now = [session.update(labels)], labels
    for top, left in ((0, 0), (2, 3), (36, 52), (2, 4)):
        now = painted(now, top, left, (int(now[top, left]) + 1) % 4)
        states.append(session.update(now))
    for state in reversed(states[:-1]):
        back = session.undo()
        assert pixels(back) == pixels(state) and back.macs == 0 and np.array_equal(session.labels, state.labels)
    for before, state in pairwise(states):
        forth = session.redo()
        assert pixels(forth) == pixels(state)
        assert np.array_equal(forth.changed, (before.image != state.image).any(2))
    assert (session.can_undo, session.can_redo) == (4, 0)


def test_after_an_undo_the_next_edit_is_compared_with_what_is_there(model: SIGE, labels: Labels) -> None:
    session = model.session(mode="exact")
    session.update(labels)
    session.update(painted(labels, 3, 4, 3))
    session.undo()
    other = painted(labels, 30, 30, 0)
    assert np.abs(session.update(other).image.astype(int) - whole(model, other)).max() <= 1
    assert session.can_redo == 0


def test_a_checkpoint_is_a_place_to_return_to_and_commit_forgets_the_way(model: SIGE, labels: Labels) -> None:
    session = model.session()
    session.update(labels)
    then, mark = session.update(painted(labels, 1, 1, 3)), session.checkpoint()
    for top in (10, 20, 30):
        session.update(painted(labels, top, 5, 3))
    assert pixels(session.undo(to=mark)) == pixels(then) and session.can_redo == 3
    session.redo()
    session.commit()
    assert (session.can_undo, session.can_redo, session.journal_mb) == (0, 0, 0)
    for refused in (session.undo, session.redo, lambda: session.undo(to=mark)):
        with pytest.raises(StateError, match="hint:"):
            refused()
    assert session.update(session.labels).macs == 0


def test_the_journal_keeps_its_limit(model: SIGE, labels: Labels) -> None:
    free = model.session()
    for one in (labels, *(painted(labels, 3 * step, 5, 3) for step in range(12))):
        free.update(one)
    limit = free.journal_mb / 2
    session = model.session(journal_mb=limit)
    session.update(labels)
    states = []
    for step in range(12):
        states.append(session.update(painted(labels, 3 * step, 5, 3)))
        assert session.journal_mb <= limit
    held = session.can_undo
    assert 0 < held < 12
    for state in reversed(states[-held - 1 : -1]):
        assert pixels(session.undo()) == pixels(state)
    with pytest.raises(StateError, match="forgotten"):
        session.undo()


def test_without_a_picture_there_is_nothing_to_undo_or_keep(model: SIGE, tmp_path: Path) -> None:
    session = model.session()
    for refused in (session.undo, session.redo, session.commit, session.checkpoint, lambda: session.labels):
        with pytest.raises(StateError, match="no picture yet\nhint:"):
            refused()
    assert (session.can_undo, session.can_redo, session.memory_mb) == (0, 0, 0)
    assert model.session(path=session.save(tmp_path / "empty.npz")).can_undo == 0


def test_a_reset_forgets_the_picture_and_keeps_the_options(model: SIGE, labels: Labels) -> None:
    session = model.session(mode="exact", journal_mb=5)
    first = session.update(labels)
    session.update(painted(labels, 3, 4, 3))
    session.reset()
    assert (session.memory.mode, session.memory.journal_mb, session.can_undo) == ("exact", 5, 0)
    again = session.update(labels)
    assert pixels(again) == pixels(first) and (again.reset_reason, again.index) == ("reset", 0)


# --- several sessions -------------------------------------------------------------------------------------------------


def test_two_sessions_share_the_weights_and_nothing_else(labels: Labels) -> None:
    model = painter(instance=True)  # whose norms keep what each session's first picture was like
    one, two = model.session(mode="local"), model.session(mode="local")
    alone = painter(instance=True).session(mode="local")
    other = painted(labels, 0, 0, 3, 30)
    one.update(other)
    wanted = [alone.update(labels), alone.update(painted(labels, 3, 4, 2)), alone.undo()]
    found = [two.update(labels)]
    one.update(painted(other, 9, 9, 1))
    found.append(two.update(painted(labels, 3, 4, 2)))
    one.undo()
    found.append(two.undo())
    assert [pixels(result) for result in found] == [pixels(result) for result in wanted]
    kept = [list(session.state.editor.engine._graph.values) for session in (one, two)]  # type: ignore[attr-defined]
    assert all(a.call is b.call for a, b in zip(*kept, strict=True))


def test_sessions_of_every_mode_follow_the_network_once(labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    model = painter()
    model.session(mode="exact")
    monkeypatch.setattr("effvision.incremental.engine.trace", None)
    for mode in ("local", "exact", "frozen", "reference"):
        assert model.session(mode=mode).update(labels).computed_fraction == 1


def test_two_sessions_may_run_in_two_threads(model: SIGE, labels: Labels) -> None:
    def edits(turn: int) -> list[Labels]:
        maps = [labels]
        for step in range(12):
            maps.append(painted(maps[-1], (7 * step + 11 * turn) % 36, (5 * step + 3 * turn) % 50, (step + turn) % 4))
        return maps

    found: dict[int, list[Any]] = {}

    def work(turn: int) -> None:
        session = model.session(mode="exact")
        found[turn] = [pixels(session.update(one)) for one in edits(turn)]

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for turn in range(2):
        session = model.session(mode="exact")
        assert found[turn] == [pixels(session.update(one)) for one in edits(turn)]


def test_several_sessions_are_advanced_all_or_none(model: SIGE, labels: Labels) -> None:
    one, two = model.session(), model.session()
    first = one.update(labels)
    with pytest.raises(RangeError):
        model.update_many([one, two], [painted(labels, 3, 4, 3), labels + 9])
    assert pixels(one.update(labels)) == pixels(first) and one.memory.updates == 2
    assert len(two.state) == 0
    results = model.update_many([one, two], [painted(labels, 3, 4, 3), labels])
    assert [result.index for result in results] == [2, 0]
    with pytest.raises(StreamingError, match="hint:"):
        model.stream_many([labels, labels])


# --- what an error leaves behind --------------------------------------------------------------------------------------


def test_a_failure_of_the_network_is_rolled_back(labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    from effvision.incremental.rules import Convolution

    model = painter()
    session = model.session(mode="exact")
    session.update(labels)
    now = painted(labels, 3, 4, 3)
    before = session.update(now)
    calls = 0
    run = Convolution.run

    def fails(self: Any, crops: Any, ways: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("out of memory")
        return run(self, crops, ways)

    with monkeypatch.context() as patched:
        patched.setattr(Convolution, "run", fails)
        with pytest.raises(RuntimeFailure, match="out of memory"):
            session.update(painted(now, 20, 20, 0))
    assert (session.can_undo, session.memory.updates) == (1, 2)
    assert pixels(session.update(now)) == pixels(before)
    other = painted(now, 30, 30, 3)
    assert np.abs(session.update(other).image.astype(int) - whole(model, other)).max() <= 1
    assert pixels(session.undo()) == pixels(before)


@pytest.mark.parametrize("journal_mb", [64, 0])
def test_a_failure_after_the_network_is_rolled_back_too(
    model: SIGE, labels: Labels, monkeypatch: pytest.MonkeyPatch, journal_mb: float
) -> None:
    session = model.session(mode="exact", journal_mb=journal_mb)
    before = session.update(labels)

    def fails(self: Any, arrays: Any, memory: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(SIGE, "finish", fails)
        with pytest.raises(MemoryError):
            session.update(painted(labels, 3, 4, 3))
    assert pixels(session.update(labels)) == pixels(before) and session.can_undo == 0


@pytest.mark.parametrize("journal_mb", [64, 0])
@pytest.mark.parametrize("step", ["update", "undo", "redo"])
def test_a_stop_between_the_network_and_the_picture_leaves_both_as_they_were(
    model: SIGE, labels: Labels, monkeypatch: pytest.MonkeyPatch, step: str, journal_mb: float
) -> None:
    session = model.session(mode="exact", journal_mb=journal_mb)
    session.update(labels)
    now = painted(labels, 3, 4, 3)
    before = session.update(now)
    if step != "update" and not journal_mb:
        return
    if step == "redo":
        before, now = session.undo(), labels
    words = {"update": lambda: session.update(painted(now, 20, 20, 0)), "undo": session.undo, "redo": session.redo}

    def stops(output: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("effvision.models.sige.editing._pixels", stops)
        with pytest.raises(KeyboardInterrupt):
            words[step]()
        if not journal_mb:  # the way back takes a full pass, which stops too
            assert len(session.state) == 0
            return
    other = painted(now, 30, 30, 3)
    assert pixels(session.update(now)) == pixels(before)
    assert np.abs(session.update(other).image.astype(int) - whole(model, other)).max() <= 1
    assert pixels(session.undo()) == pixels(before)
    assert session.redo().labels.tolist() == other.tolist()


def test_a_stop_after_the_first_full_pass_leaves_an_empty_session(
    model: SIGE, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = model.session(mode="exact")
    with monkeypatch.context() as patched:
        patched.setattr("effvision.models.sige.editing._differ", None)
        patched.setattr("effvision.models.sige.editing._pixels", None)
        with pytest.raises(TypeError):
            session.update(labels)
    result = session.update(painted(labels, 3, 4, 3))
    assert session.can_undo == 0 and result.computed_fraction == 1.0


def test_a_first_picture_that_fails_leaves_an_empty_session(model: SIGE, labels: Labels) -> None:
    session = model.session()
    with pytest.raises(RangeError):
        session.update(labels + 4)
    assert len(session.state) == 0 and session.memory.updates == 0
    assert session.update(labels).index == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mode": "fast"}, InputError),
        ({"mode": None}, InputError),
        ({"journal_mb": -1}, RangeError),
        ({"journal_mb": float("nan")}, RangeError),
        ({"journal_mb": "1"}, InputError),
        ({"colour": 1}, InputError),
    ],
)
def test_options_that_cannot_be_are_refused(model: SIGE, options: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        model.session(**options)


# --- saved sessions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instance", [False, True])
@pytest.mark.parametrize("mode", ["local", "exact"])
def test_a_saved_session_goes_on_bit_for_bit_without_computing(
    labels: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, instance: bool
) -> None:
    model = painter(instance=instance)
    session = model.session(mode=mode)
    session.update(painted(labels, 0, 0, 3, 20))  # whose statistics differ from those of what follows
    session.update(labels)
    now = painted(labels, 3, 4, 3)
    session.update(now)
    path = session.save(tmp_path / "session.npz")
    with monkeypatch.context() as patched:
        patched.setattr("effvision.incremental.engine.compute_whole", None)
        restored = model.session(path=path)
        assert restored.update(now).macs == 0
    assert restored.can_undo == 0 and session.can_undo == 2  # the way back is not saved
    assert (restored.memory.mode, restored.memory.journal_mb) == (mode, 64)
    after = painted(now, 20, 30, 0)
    one, other = session.update(after), restored.update(after)
    assert pixels(one) == pixels(other) and (one.macs, one.how) == (other.macs, other.how)
    assert pixels(restored.undo()) == pixels(session.undo())


def test_a_session_saved_in_one_runtime_goes_on_in_the_other(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    models = [SIGE.from_pretrained("sige-scenes", runtime=name) for name in ("torch", "onnx")]  # type: ignore[arg-type]
    labels = scenes.layout(3)
    for model, other in (models, reversed(models)):
        session = model.session(mode="local")
        session.update(labels)
        session.update(painted(labels, 100, 50, 3, 10))
        restored = other.session(path=session.save(tmp_path / "s.npz"))
        now = painted(session.labels, 20, 30, 8, 12)
        one, two = session.update(now), restored.update(now)
        assert 0 < two.computed_fraction < 0.5 and np.abs(one.image.astype(int) - two.image).max() <= 1
    published = models[0].session(mode="reference")
    published.update(labels)
    with pytest.raises(InputError, match="reference"):
        models[1].session(path=published.save(tmp_path / "s.npz"))


def test_saved_sessions_of_another_kind_are_refused(model: SIGE, labels: Labels, tmp_path: Path) -> None:
    session = model.session(mode="local")
    session.update(labels)
    path = session.save(tmp_path / "s.npz")
    with pytest.raises(InputError, match="keeps its own options"):
        model.session(path=path, mode="exact")
    with pytest.raises(StateError, match="not by"):
        painter(instance=True).session(path=path)

    def damaged(change: Any) -> Path:
        with np.load(path) as file:
            arrays = dict(file)
        header = json.loads(bytes(arrays.pop("effvision")))
        change(arrays, header)
        buffer = io.BytesIO()
        np.savez(buffer, effvision=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
        (tmp_path / "bad.npz").write_bytes(buffer.getvalue())
        return tmp_path / "bad.npz"

    def missing(arrays: Any, header: Any) -> None:
        arrays.pop(next(name for name in arrays if name.startswith("map.")))

    def larger(arrays: Any, header: Any) -> None:
        name = next(name for name in arrays if name.startswith("map."))
        arrays[name] = arrays[name][:, :, 1:]

    def nan(arrays: Any, header: Any) -> None:
        name = next(name for name in arrays if name.startswith("map."))
        arrays[name] = arrays[name] * np.float32(np.nan)

    changes: list[Any] = [
        missing, larger, nan,
        lambda arrays, header: arrays.pop("labels"),
        lambda arrays, header: arrays.update(labels=arrays["labels"] + 4),
        lambda arrays, header: arrays.update(labels=arrays["labels"][:, 1:]),
        lambda arrays, header: arrays.update(more=arrays["labels"]),
        lambda arrays, header: arrays.clear(),
        lambda arrays, header: header["memory"].update(mode="fast"),
        lambda arrays, header: header["memory"].update(journal_mb=-1),
        lambda arrays, header: header["memory"].update(updates=0),
        lambda arrays, header: header["memory"].pop("mode"),
        lambda arrays, header: header["memory"].update(more=1),
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(StateError, match=r"bad\.npz"):
            model.session(path=damaged(change))


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_compares_each_map_with_the_one_before(model: SIGE, labels: Labels, tmp_path: Path) -> None:
    maps = [labels, painted(labels, 3, 4, 3), painted(labels, 3, 4, 3)]
    for number, one in enumerate(maps):
        np.save(tmp_path / f"{number + 9}.npy", one)
    for source in (maps, iter(maps), np.stack(maps), tmp_path):
        results = list(model.stream(source, mode="exact"))
        assert [result.index for result in results] == [0, 1, 2]
        assert results[0].computed_fraction == 1 > results[1].computed_fraction > 0 == results[2].computed_fraction
    assert next(iter(model.stream(maps, images=False))).labels is None


# --- own networks, cards ----------------------------------------------------------------------------------------------


def test_a_network_that_does_not_fit_its_labels_is_refused() -> None:
    for change, error, told in (
        ({"labels": NAMES[:3], "colors": COLOURS[:3]}, InputError, "cannot be called"),
        ({"labels": "sky"}, InputError, "class names"),
        ({"size": (40,)}, InputError, "rows and columns"),
        ({"colors": COLOURS[:2]}, InputError, "different RGB colours"),
        ({"colors": [[1, 2, 3]] * 4}, InputError, "different RGB colours"),
        ({"kind": "scenes"}, InputError, "cannot be called"),
        ({"network": "painter"}, DTypeError, "torch.nn.Module"),
        ({"network": torch.nn.Conv2d(4, 2, 1)}, InputError, r"must give a picture \(1, 3, 40, 56\)"),
    ):
        given: dict[str, Any] = {"network": Painter(), "labels": NAMES, "size": SIZE, "colors": COLOURS, **change}
        with pytest.raises(error, match=told):
            SIGE.from_network(given.pop("network"), **given)


def test_a_published_generator_becomes_a_predictor(tmp_path: Path) -> None:
    from effvision.models.sige.convert import from_reference
    from effvision.models.sige.network import SpadeGenerator

    torch.manual_seed(0)
    published = {name: value for name, value in SpadeGenerator(4, width=2).state_dict().items()}
    model = SIGE.from_network(from_reference(published, network="spade"), labels=NAMES, size=(64, 128), colors=COLOURS)
    labels = np.zeros((64, 128), np.uint8)
    labels[30:, :50] = 2
    session = model.session(mode="exact")
    session.update(labels)
    labels[3:5, 3:5] = 1
    result = session.update(labels)
    one_hot = np.stack([labels == label for label in range(4)]).astype(np.float32)[None]
    wanted = model.runtime.run("step", {"labels": one_hot})["picture"][0].transpose(1, 2, 0)
    assert np.abs(result.image - (np.asarray(wanted) + 1) * 127.5).max() < 1


@pytest.mark.parametrize("instance", [False, True])
def test_a_channel_of_edges_follows_an_edit(tmp_path: Path, instance: bool) -> None:
    model = SIGE.from_network(Painter(5, instance=instance), labels=NAMES, size=SIZE, colors=COLOURS, edges=True)
    session = model.session(mode="frozen")
    session.update(some_labels())
    now = some_labels()
    for top, left, label in ((0, 0, 2), (3, 4, 3), (36, 52, 0), (18, 20, 3)):
        now = painted(now, top, left, label)
        session.update(now)
        made = model.encoding.array(now)
        assert np.array_equal(session.state._inputs, made)  # what the engine was given is what a full pass is given
        padded = np.pad(now, 1, mode="edge")
        beside = [padded[1 + y : 41 + y, 1 + x : 57 + x] != now for y, x in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        assert np.array_equal(made[0, 4], np.logical_or.reduce(beside))
    if not instance:
        fresh = model.session(mode="exact").update(now)
        assert np.abs(session.update(now).image.astype(int) - fresh.image).max() <= 1
    session.undo(to=session.checkpoint() - 3)
    assert np.array_equal(session.state._inputs, model.encoding.array(session.labels))


def test_a_checkpoint_of_pix2pix_draws_from_colours(tmp_path: Path) -> None:
    from effvision.models.sige.pix2pix import ResNetGenerator

    torch.manual_seed(0)
    torch.save(ResNetGenerator(3, width=4, blocks=1, norm="batch").state_dict(), tmp_path / "net_G.pth")
    given: dict[str, Any] = {"labels": NAMES, "size": SIZE, "colors": COLOURS, "network": "resnet"}
    model = SIGE.from_checkpoint(tmp_path / "net_G.pth", kind="colors", **given)
    labels = painted(some_labels(), 3, 4, 3)
    result = model.session(mode="exact").update(labels)
    picture = torch.tensor(COLOURS)[torch.from_numpy(labels).long()].permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        wanted = model.runtime.modules["step"](picture)[0].permute(1, 2, 0).numpy()  # type: ignore[attr-defined]
    assert np.abs(result.image - (wanted + 1) * 127.5).max() < 0.51
    session = model.session(mode="exact")
    session.update(some_labels())
    assert np.abs(session.update(labels).image.astype(int) - result.image).max() <= 1
    with pytest.raises(InputError, match="cannot be called"):
        SIGE.from_checkpoint(tmp_path / "net_G.pth", **given)
    with pytest.raises(CheckpointError):
        SIGE.from_checkpoint(tmp_path / "none.pth", **given)
    with pytest.raises(CheckpointError, match=r"hint: .*from_checkpoint"):
        SIGE.from_pretrained(tmp_path / "net_G.pth", card="sige-scenes", runtime="torch")


def test_a_step_overwrites_the_state_it_is_given_and_a_copy_stays(model: SIGE, labels: Labels) -> None:
    memory = model.initial_memory(mode="exact")
    maps = [labels, painted(labels, 3, 4, 3), painted(labels, 20, 30, 0)]
    steps = [model.prepare({"x": one}, memory) for one in maps]
    outputs, state = model.program(model.runtime, steps[0], model.initial_state())
    first, kept = outputs["picture"], state.copy()
    second, after = model.program(model.runtime, steps[1], state)
    assert after is state and state.batch == kept.batch == 1 and state.nbytes == kept.nbytes > 0
    assert not np.array_equal(state["labels"], kept["labels"]) and set(state) == set(kept)
    third, branch = model.program(model.runtime, steps[2], kept)  # goes on from the first picture
    assert branch is not state and 0 < third["macs"] < third["dense_macs"]
    assert np.abs(third["picture"].astype(int) - whole(model, maps[2])).max() <= 1
    assert np.abs(second["picture"].astype(int) - whole(model, maps[1])).max() <= 1
    back, _ = model.program(model.runtime, steps[0], branch)
    assert np.array_equal(back["picture"], first)


def test_any_order_of_words_leaves_the_picture_of_the_labels(model: SIGE, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    session, past, future = model.session(mode="exact"), [some_labels()], []  # the oracle: lists of label maps
    session.update(past[0])
    for turn in range(80):
        word = rng.choice(["paint", "paint", "paint", "undo", "redo", "same", "commit", "save"])
        if word == "paint":
            now = painted(past[-1], *rng.integers(0, 40, 2), rng.integers(4), rng.integers(1, 20))
            if not np.array_equal(now, past[-1]):
                past, future = [*past, now], []
            session.update(now)
        elif word == "undo" and len(past) > 1:
            future.append(past.pop())
            session.undo()
        elif word == "redo" and future:
            past.append(future.pop())
            session.redo()
        elif word == "same":
            assert session.update(past[-1]).macs == 0
        elif word == "commit":
            past, future = past[-1:], []
            session.commit()
        elif word == "save":
            past, future = past[-1:], []
            session = model.session(path=session.save(tmp_path / f"{turn}.npz"))
        assert (session.can_undo, session.can_redo) == (len(past) - 1, len(future))
        assert np.array_equal(session.labels, past[-1])
        if turn % 8 == 0:
            assert np.abs(session.update(past[-1]).image.astype(int) - whole(model, past[-1])).max() <= 1


def test_the_card_paints_with_the_palette_of_the_scenes() -> None:
    model = SIGE.untrained("sige-scenes")
    assert model.labels == scenes.NAMES and model.size == (scenes.SIZE, scenes.SIZE)
    assert model.palette.tolist() == [list(paint.colour) for paint in scenes.PALETTE]
    labels = scenes.layout(3)
    assert np.array_equal(model.coloured(labels), scenes.coloured(labels))
    assert np.array_equal(model.encoding.array(labels)[0], scenes.network_input(labels))


def test_an_edit_of_a_scene_changes_only_the_labels_part_of_what_the_generator_takes() -> None:
    model = SIGE.untrained("sige-scenes")
    labels = scenes.layout(3)
    after = painted(labels, 100, 50, 8, 30)
    made = model.encoding.array(labels)
    model.encoding.write(made, after, (100, 130, 50, 80))
    assert np.array_equal(made[0], scenes.network_input(after))


def test_the_bundled_card_answers_and_says_how_little_it_computed(tmp_path: Path) -> None:
    model = SIGE.from_pretrained("sige-scenes", runtime="torch")
    path = SIGE.write_sample(tmp_path / "scene.png", card="sige-scenes", seed=4)
    session = model.session(mode="exact")
    first = session.update(path)
    labels = painted(session.labels, 200, 30, 8, 12)
    result = session.update(labels)
    assert first.image.shape == (256, 256, 3) and 0.01 < result.computed_fraction < 0.5
    fresh = model.session(mode="exact").update(labels)
    assert np.abs(result.image.astype(int) - fresh.image).max() <= 1
    assert isinstance(session, EditSession) and 5 < session.memory_mb < 100


def test_what_is_no_label_map_does_not_reach_the_network(model: SIGE) -> None:
    for bad in (None, object(), b"bytes", {"a": 1}, "no such file.png", np.zeros((3, 3), np.uint8)):
        with pytest.raises(EffvisionError):
            model.predict(bad)
    with pytest.raises(InputError, match="takes no option"):
        Session.update(model.session(), some_labels(), brush=3)


def test_a_network_that_gives_no_numbers_is_an_error_and_draws_nothing(labels: Labels) -> None:
    class Broken(Painter):
        def forward(self, x: Any) -> Any:
            most = x[:, 1:2].amax()
            return super().forward(x) * (most / most)  # 0 / 0 where nobody painted the second class

    session = SIGE.from_network(Broken(4), labels=NAMES, size=SIZE, colors=COLOURS).session()
    bad = np.zeros_like(labels)
    with np.errstate(all="ignore"), pytest.raises(RuntimeFailure, match="no numbers"):
        session.update(bad)
    good = bad.copy()
    good[3, 4] = 1
    assert session.update(good).image.shape == (*SIZE, 3)
