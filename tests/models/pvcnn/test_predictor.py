"""PVCNN from clouds to labels: the same as the network called by hand, whatever the cloud came from and however it was cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import effvision
from cloud_cards import LABELS, OBJECT, ROOM, SCENE, add_cards
from effvision.clouds import Cloud
from effvision.errors import (
    CheckpointError,
    DTypeError,
    EffvisionError,
    InputError,
    ModelFileError,
    RangeError,
    RuntimeFailure,
    ShapeError,
    SourceError,
    StateError,
    StreamingError,
)
from effvision.host.blocks import Blocks, Votes
from effvision.models.pvcnn.assemble import build
from effvision.models.pvcnn.inputs import RoomInput, parse_input
from effvision.models.pvcnn.network import PVCNN as Network
from effvision.models.pvcnn.network import PVCNN2, PointNet, shapenet
from effvision.models.pvcnn.predictor import PVCNN
from effvision.models.pvcnn.preparation import Spec, prepare
from effvision.models.pvcnn.sample import sample_room, write_sample
from effvision.sample_scenes import LABELS as SAMPLE_LABELS
from effvision.sample_scenes import sample_scene
from effvision.sources import open_cloud, write_ply


def network(channels: int = 5, *, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"stages": [[8, 1, 6], [8, 1, 0]], "cloud": [8], "head": [8], **changes}
    made = build(len(LABELS), channels, **settings).eval()
    with torch.no_grad():  # answers that differ from point to point
        for parameter in made.parameters():
            parameter.mul_(2.0)
    return made


@pytest.fixture(scope="module")
def scene() -> Cloud:
    return sample_scene(1, side_m=36.0, points_per_m2=2.0)


@pytest.fixture(scope="module")
def model() -> PVCNN:
    return PVCNN.from_network(network(), labels=LABELS, inputs=SCENE)


@pytest.fixture(scope="module")
def object_model() -> PVCNN:
    return PVCNN.from_network(network(3), labels=LABELS, inputs=OBJECT)


# -- the answer ----------------------------------------------------------------------------------------------------------


def test_a_scene_gets_what_the_network_says_of_its_columns(model: PVCNN, scene: Cloud) -> None:
    spec = Spec(12.0, 256, ("height", "intensity"))
    prepared, plain = prepare(scene, spec), network()
    votes = Votes(len(scene), 4, rule="mean")
    for chunk in Blocks(scene.xyz, block_m=12.0, points=256, merge_below=16, repeat=False):
        with torch.inference_mode():
            logits = plain(torch.from_numpy(prepared.channels(chunk.index))[None])[0]
        votes.add(chunk.index, logits.softmax(0).T.numpy())
    labels, scores = votes.result()
    result = model.predict(scene)
    assert len(set(labels.tolist())) > 1
    assert (result.labels == labels).mean() > 0.999  # two sums of the same numbers may decide a tie
    np.testing.assert_allclose(result.scores, scores, atol=1e-5)
    assert result.cloud is scene and result.names == LABELS and sum(result.counts.values()) == len(scene)


def test_labels_come_in_the_order_of_the_points(model: PVCNN, scene: Cloud) -> None:
    order = np.random.default_rng(0).permutation(len(scene))
    given, turned = model.predict(scene), model.predict(scene.select(order))
    # another order is another shuffling inside the columns, so single points may change their minds
    assert (turned.labels == given.labels[order]).mean() > 0.9


def test_a_seed_decides_everything(model: PVCNN, scene: Cloud) -> None:
    first, again, other = model.predict(scene), model.predict(scene, seed=0), model.predict(scene, seed=1)
    np.testing.assert_array_equal(first.scores, again.scores)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.scores, other.scores)


def test_every_stage_has_its_time(model: PVCNN, scene: Cloud) -> None:
    timing = model.predict(scene).timing
    assert timing.prepare_ms > 0 and timing.run_ms > 0 and timing.finish_ms > 0
    assert timing.total_ms == pytest.approx(timing.prepare_ms + timing.run_ms + timing.finish_ms)


@pytest.mark.parametrize("how", ["path", "dict", "npz", "cloud", "structured"])
def test_a_cloud_may_come_from_anything_open_cloud_takes(how: str, model: PVCNN, scene: Cloud, tmp_path: Path) -> None:
    wanted = model.predict(scene)
    fields = {"xyz": scene.xyz, "intensity": scene.fields["intensity"]}
    makers: dict[str, Callable[[], Any]] = {
        "path": lambda: write_ply(tmp_path / "a.ply", scene.xyz, intensity=scene.fields["intensity"]),
        "dict": lambda: fields,
        "npz": lambda: saved(tmp_path / "a.npz", fields),
        "cloud": lambda: open_cloud(fields),
        "structured": lambda: structured(fields),
    }
    result = model.predict(makers[how]())
    np.testing.assert_array_equal(result.labels, wanted.labels)


def saved(path: Path, fields: dict[str, np.ndarray]) -> Path:
    np.savez(path, **fields)  # type: ignore[arg-type]
    return path


def structured(fields: dict[str, np.ndarray]) -> np.ndarray:
    rows = np.empty(len(fields["xyz"]), [("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "u2")])
    for index, axis in enumerate("xyz"):
        rows[axis] = fields["xyz"][:, index]
    rows["intensity"] = fields["intensity"]
    return rows


def test_a_small_object_is_one_chunk_and_a_large_one_several_votes(object_model: PVCNN) -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(100, 3)).astype(np.float32), rng.normal(size=(400, 3)).astype(np.float32)
    kind = object_model.inputs
    assert [len(chunk.index) for chunk in kind.chunks(small, seed=0)] == [100] and len(kind.chunks(small, seed=0)) == 1
    sizes = [len(chunk.index) for chunk in kind.chunks(large, seed=0)]
    assert sizes == [100] * 8 and len(kind.chunks(large, seed=0)) == 8
    for points in (small, large):
        result = object_model.predict(points)
        assert len(result) == len(points) and (result.scores > 0.2).all()
    moved = object_model.predict(large * 3 + np.float32([10, -5, 2]))
    assert (moved.labels == object_model.predict(large).labels).mean() > 0.99


def test_an_object_gets_what_the_network_says_of_it(object_model: PVCNN) -> None:
    points = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    arrays = object_model.inputs.arrays(open_cloud(points))
    with torch.inference_mode():
        logits = network(3)(torch.from_numpy(arrays["xyz"].T.copy())[None])[0]
    np.testing.assert_array_equal(object_model.predict(points).labels, logits.argmax(0).numpy())


def test_a_room_has_the_nine_channels_of_the_s3dis_table() -> None:
    room = sample_room(0)
    kind = RoomInput()
    arrays = kind.arrays(room)
    low = room.xyz.min(axis=0)
    size = np.ptp(room.xyz, axis=0)
    chunk = next(iter(kind.chunks(arrays["xyz"], seed=0)))
    channels = kind.cut(arrays, chunk)
    assert channels.shape == (9, 4096) and channels.dtype == np.float32
    for place in range(0, 4096, 501):
        point = chunk.index[place]
        x, y, z = room.xyz[point] - low
        wanted = [x - chunk.low[0] - 0.75, y - chunk.low[1] - 0.75, z, *(room.fields["rgb"][point] / 255)]
        np.testing.assert_allclose(channels[:, place], [*wanted, *(np.array([x, y, z]) / size)], atol=1e-5)
    model = PVCNN.from_network(network(9), labels=LABELS, inputs=ROOM)
    thinned = room.select(np.arange(0, len(room), 10))
    assert len(model.predict(thinned)) == len(thinned)


def test_other_networks_of_the_family_run_too(scene: Cloud) -> None:
    room = sample_room(1).select(np.arange(0, 30_000, 15))
    points = PVCNN.from_network(PointNet(4, width=0.125).eval(), labels=LABELS, inputs=ROOM)
    finer = PVCNN.from_network(PVCNN2(4, width=0.25).eval(), labels=LABELS, inputs={**ROOM, "points": 2048})
    assert len(points.predict(room)) == len(room)
    with pytest.raises(InputError, match="hint: it runs in PyTorch"):
        finer.export("never.onnx")


# -- sessions and streams ------------------------------------------------------------------------------------------------


def test_a_session_says_what_predict_says_and_remembers_nothing(model: PVCNN, scene: Cloud) -> None:
    session = model.session(seed=3)
    wanted = model.predict(scene, seed=3)
    for index in range(2):
        result = session.update(scene)
        np.testing.assert_array_equal(result.scores, wanted.scores)
        assert result.index == index
    assert session.memory.cloud is None and len(session.state) == 0  # type: ignore[attr-defined]


def test_a_bad_cloud_leaves_the_session_as_it_was(model: PVCNN, scene: Cloud) -> None:
    session = model.session()
    session.update(scene)
    with pytest.raises(EffvisionError):
        session.update({"xyz": scene.xyz})
    assert session.update(scene).index == 1


def test_a_stream_goes_through_a_folder_a_pattern_a_list_and_an_iterator(object_model: PVCNN, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(40 + index, 3)).astype(np.float32) for index in range(3)]
    for name, points in zip(("scan2.ply", "scan10.ply", "scan1.ply"), clouds, strict=True):
        write_ply(tmp_path / name, points)
    (tmp_path / "notes.md").write_text("no cloud")
    natural = [42, 40, 41]
    assert [len(result) for result in object_model.stream(tmp_path)] == natural
    assert [len(result) for result in object_model.stream(str(tmp_path / "*.ply"))] == natural
    assert [len(result) for result in object_model.stream(clouds)] == [40, 41, 42]
    assert [result.index for result in object_model.stream(iter(clouds))] == [0, 1, 2]
    (only,) = object_model.stream(clouds[0])
    assert len(only) == 40 and only.cloud is not None
    assert all(result.cloud is None for result in object_model.stream(clouds, images=False))


def test_a_stream_of_something_else_is_refused_at_once(model: PVCNN, tmp_path: Path) -> None:
    for source in (0, "rtsp://camera/1", "clip.mp4", "picture.png"):
        with pytest.raises(InputError, match="labels clouds of points"):
            model.stream(source)
    with pytest.raises(SourceError, match="holds no file of points"):
        model.stream(tmp_path)
    with pytest.raises(SourceError, match="does not exist"):
        model.stream(tmp_path / "absent.ply")
    with pytest.raises(InputError, match="empty"):
        model.stream([])
    with pytest.raises(StreamingError, match=r"hint: .*stream"):
        model.stream_many([tmp_path])
    with pytest.raises(InputError, match="takes no option smoothing"):
        model.stream([np.zeros((3, 3))], smoothing=3)


def test_several_sessions_advance_in_turns_all_or_none(object_model: PVCNN) -> None:
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(count, 3)) for count in (30, 200)]
    sessions = [object_model.session(seed=seed) for seed in (0, 1)]
    for result, points, seed in zip(object_model.update_many(sessions, clouds), clouds, (0, 1), strict=True):
        np.testing.assert_array_equal(result.scores, object_model.predict(points, seed=seed).scores)
    with pytest.raises(EffvisionError):
        object_model.update_many(sessions, [clouds[0], "no such file.ply"])
    assert [session.memory.updates for session in sessions] == [1, 1]


def test_a_saved_session_keeps_its_seed(object_model: PVCNN, tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(300, 3))
    session = object_model.session(seed=5)
    session.update(points)
    restored = object_model.session(path=session.save(tmp_path / "s.npz"))
    result = restored.update(points)
    np.testing.assert_array_equal(result.scores, object_model.predict(points, seed=5).scores)
    assert result.index == 1
    for damaged in ({"seed": "x", "progress": False}, {}, {"seed": 1, "progress": False, "updates": "x"}):
        with pytest.raises(StateError, match="damaged"):
            object_model.restore_memory(damaged)


# -- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cloud", "error", "message"),
    [
        (np.full((5, 3), np.nan), RangeError, "NaN or infinity"),
        (np.array([[0, 0, 0], [1, 1, np.inf]]), RangeError, "NaN or infinity"),
        (np.zeros((0, 3)), EffvisionError, "point"),
        (np.zeros((1, 3)), EffvisionError, "point"),
        (np.zeros((5, 2)), ShapeError, r"\(N, 3\)|columns"),
        (np.zeros((2, 5, 3)), ShapeError, r"points\[0\]"),
        ({"points": np.zeros((5, 3))}, InputError, "xyz"),
        (7, InputError, "camera 7"),
        (None, DTypeError, "NoneType"),
    ],
    ids=["nan", "inf", "none", "one", "columns", "batch", "dict", "camera", "None"],
)
def test_what_is_no_cloud_is_refused(cloud: Any, error: type[Exception], message: str, object_model: PVCNN) -> None:
    with pytest.raises(error, match=message):
        object_model.predict(cloud)


def test_a_missing_field_is_named_before_any_work(model: PVCNN, scene: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.fields == ("intensity",)
    monkeypatch.setattr("effvision.models.pvcnn.inputs.prepare", lambda *_: pytest.fail("the work began"))
    with pytest.raises(InputError, match="lacks `intensity`; its fields: none besides xyz\nhint: "):
        model.predict({"xyz": scene.xyz})


def test_files_that_are_no_clouds_are_refused(model: PVCNN, tmp_path: Path) -> None:
    labels = tmp_path / "000000.label"
    labels.write_bytes(np.arange(100, dtype=np.uint32).tobytes())
    huge = tmp_path / "huge.ply"
    huge.write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement vertex 4000000000\nproperty float x\nproperty float y\n"
        b"property float z\nend_header\n" + b"\0" * 120
    )
    short = tmp_path / "short.npz"
    short.write_bytes(b"PK\x03\x04" + b"\0" * 40)
    for path, message in ((labels, "file of labels"), (huge, "huge.ply"), (short, "short.npz"), (tmp_path, "folder")):
        with pytest.raises(SourceError, match=message):
            model.predict(path)


def test_options_out_of_range_are_refused(object_model: PVCNN) -> None:
    points = np.random.default_rng(0).normal(size=(9, 3))
    for seed in (-1, 1.5, True, "x"):
        with pytest.raises(InputError, match="`seed`"):
            object_model.predict(points, seed=seed)  # type: ignore[arg-type]
    with pytest.raises(DTypeError, match="`progress`"):
        object_model.predict(points, progress=1)  # type: ignore[arg-type]


def test_a_network_that_gives_nonsense_is_an_error(scene: Cloud) -> None:
    bad = network()
    torch.nn.init.constant_(next(bad.classifier[-1].parameters()), float("inf"))
    with pytest.raises(RuntimeFailure, match="NaN or infinity"):
        PVCNN.from_network(bad, labels=LABELS, inputs=SCENE).predict(scene)


# -- networks and descriptions -------------------------------------------------------------------------------------------


def test_a_network_of_ones_own_is_checked_and_left_as_it_is() -> None:
    own = network().train()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    PVCNN.from_network(own, labels=LABELS, inputs=SCENE)
    assert own.training and all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    for bad, labels, inputs, message in (
        (torch.nn.Linear(3, 4), LABELS, SCENE, "must be a PVCNN"),
        (own, LABELS[:3], SCENE, "4 outputs, but 3 labels"),
        (own, LABELS, OBJECT, "takes 5 channels"),
        (own, "labels", SCENE, "class names"),
        (own, LABELS, {"kind": "street"}, "`kind`"),
        (shapenet(4, width=0.125), LABELS, OBJECT, "category"),
    ):
        with pytest.raises(InputError, match=message):
            PVCNN.from_network(bad, labels=labels, inputs=inputs)


def test_an_input_is_plain_data_and_comes_back() -> None:
    for data in (SCENE, OBJECT, ROOM):
        kind = parse_input(data)
        assert parse_input(kind.to_dict()) == kind and set(data) <= set(kind.to_dict())
    for wrong in (
        {}, {"kind": 3}, {"kind": "object", "points": 0}, {"kind": "object", "points": 2.5}, {**OBJECT, "votes": True},
        {**ROOM, "block_m": -1}, {**ROOM, "block_m": "1"}, {**ROOM, "more": 1}, {**SCENE, "features": ["colour"]},
        {**SCENE, "merge_below": -1}, None,
    ):  # fmt: skip
        with pytest.raises(InputError):
            parse_input(wrong)  # type: ignore[arg-type]


def test_a_description_that_does_not_fit_its_graph_is_refused(model: PVCNN) -> None:
    from dataclasses import replace

    good = model.metadata
    for bad in (
        replace(good, labels=LABELS[:2]),
        replace(good, preprocess={}),
        replace(good, preprocess=OBJECT),
        replace(good, options={}),
        replace(good, options={**good.options, "unit_ball": 1}),
        replace(good, options={**good.options, "margin": "x"}),
    ):
        with pytest.raises(ModelFileError):
            PVCNN(model.runtime, bad)


def test_a_checkpoint_is_filled_in_by_its_card(tmp_path: Path, scene: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    add_cards(monkeypatch)
    own = network()
    weights = tmp_path / "w.safetensors"
    save_file(
        {name: value.half() for name, value in own.state_dict().items() if value.ndim}, weights, {"card": "pvcnn-tiny"}
    )
    model = PVCNN.from_pretrained(weights, runtime="torch")
    assert model.metadata.card == "pvcnn-tiny" and model.labels == LABELS
    wanted = PVCNN.from_network(network(), labels=LABELS, inputs=SCENE).predict(scene)
    assert (model.predict(scene).labels == wanted.labels).mean() > 0.98  # its numbers were rounded to 16 bits
    with pytest.raises(CheckpointError, match=r"w.safetensors: "):
        PVCNN.from_pretrained(weights, card="pvcnn-tiny-object", runtime="torch")


def test_the_published_layout_is_known_by_its_width() -> None:
    made = build(13, 9, layout="s3dis", width=0.125)
    assert isinstance(made, Network) and made.channels == 9
    assert isinstance(build(13, 9, layout="pointnet", width=0.125), PointNet)


# -- samples -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scene", "room", "object"])
def test_a_sample_is_a_cloud_with_what_a_card_needs(kind: str, tmp_path: Path) -> None:
    path = write_sample(tmp_path / "sample.ply", kind=kind)
    assert path.read_bytes() == write_sample(tmp_path / "again.ply", kind=kind).read_bytes()
    assert path.read_bytes() != write_sample(tmp_path / "other.ply", kind=kind, seed=1).read_bytes()
    cloud = open_cloud(path)
    if kind == "scene":
        cloud.need(["intensity", "return_number", "num_returns", "rgb", "normal", "label"])
        assert set(np.unique(cloud.field("label"))) == set(range(1, len(SAMPLE_LABELS)))
        assert (cloud.field("return_number") <= cloud.field("num_returns")).all() and len(cloud) > 20_000
    with pytest.raises(InputError, match=r"written as .ply"):
        write_sample(tmp_path / "sample.las", kind=kind)


def test_the_family_is_found_from_the_top() -> None:
    assert effvision.PVCNN is PVCNN


def test_a_scene_of_all_but_empty_columns_is_refused_before_it_takes_hours() -> None:
    kind = parse_input({"kind": "scene", "block_m": 25, "points": 2048, "features": ["height"]})
    scattered = np.random.default_rng(0).uniform(0, 1e6, (3000, 3)).astype(np.float32)
    with pytest.raises(
        RangeError, match=r"3,000 points lie in 3,0\d\d columns of 25 m.*\nhint: coordinates must be metres"
    ):
        kind.chunks(scattered, seed=0)
    assert len(kind.chunks(scattered[:500], seed=0)) > 900  # few: soon done
