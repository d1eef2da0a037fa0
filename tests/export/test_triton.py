"""A Triton model repository: its description fits Triton's protobuf and the graph, streams keep apart, the client answers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cloud_cards import add_cards
from effvision import PVCNN, TSM, MinkUNet, PatchNet
from effvision.cli import main
from effvision.errors import EffvisionError, ExportError, InputError, SourceError
from effvision.export import TritonReport, triton
from effvision.export.triton_config import config_text
from effvision.models.minkunet.sample import small_sample as small_scene
from effvision.models.pvcnn.sample import small_sample
from effvision.predictor import Predictor
from effvision.runtime.onnx import open_session, read_metadata
from effvision.sources import VideoWriter, open_cloud, write_ply
from kits import run_kit, small_model
from sparse_cards import add_cards as add_sparse_cards

pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc] for Triton's published protobuf")
from triton_stand_in import Batcher, Request, read_config, served

KINDS = {"TYPE_FP32": 1, "TYPE_INT64": 7}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> TritonReport:
    """Of a small network of streams."""
    return small_model().export_kit("triton", tmp_path_factory.mktemp("frames") / "models")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, TritonReport]]:
    """Of two small networks of clouds, in one repository."""
    repository = tmp_path_factory.mktemp("clouds") / "models"
    with pytest.MonkeyPatch.context() as patch:
        add_cards(patch)
        points = PVCNN.untrained("pvcnn-tiny")
        made: dict[str, Any] = {"points": (points, points.export_kit("triton", repository))}
    with pytest.MonkeyPatch.context() as patch:
        add_sparse_cards(patch)
        sparse = MinkUNet.untrained("minkunet-tiny")
        made["sparse"] = (sparse, sparse.export_kit("triton", repository))
    return made


def model_folder(report: TritonReport) -> Path:
    return report.folder / report.model


@pytest.fixture(params=["frames", "points", "sparse"])
def written(request: pytest.FixtureRequest, frames: TritonReport, clouds: dict[str, Any]) -> Path:
    return model_folder(frames if request.param == "frames" else clouds[request.param][1])


# --- the description --------------------------------------------------------------------------------------------------------


def test_the_description_parses_as_tritons_own_and_equals_the_graph(written: Path) -> None:
    config, model = read_config(written), onnx.load(written / "1" / "model.onnx")
    assert config.name == written.name and config.backend == "onnxruntime"
    assert config.default_model_filename == "model.onnx"
    enum = type(config.input[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    batched = config.max_batch_size > 0
    states = config.sequence_batching.state
    for said, graph in (
        ({**{t.name: t for t in config.input}, **{s.input_name: s for s in states}}, model.graph.input),
        ({**{t.name: t for t in config.output}, **{s.output_name: s for s in states}}, model.graph.output),
    ):
        assert set(said) == {value.name for value in graph}
        for value in graph:
            kind = value.type.tensor_type
            assert kind.elem_type == KINDS[enum[said[value.name].data_type].name]
            shape = [-1 if axis.dim_param else axis.dim_value for axis in kind.shape.dim]
            assert list(said[value.name].dims) == (shape[1:] if batched else shape), value.name
            assert not batched or (shape[0] == -1 and kind.shape.dim[0].dim_param == "batch")


def test_the_description_carries_what_the_model_says_of_itself(written: Path) -> None:
    said = json.loads(read_config(written).parameters["effvision"].string_value)
    stored = read_metadata(open_session(written / "1" / "model.onnx"), where="the model")
    assert said == json.loads(stored.to_json())
    assert (written / "labels.txt").read_text("utf-8").split("\n")[:-1] == list(stored.labels)


def test_streams_are_sequences_whose_state_triton_keeps(frames: TritonReport) -> None:
    config = read_config(model_folder(frames))
    batching = config.sequence_batching
    assert config.WhichOneof("scheduling_choice") == "sequence_batching"
    assert batching.WhichOneof("strategy_choice") == "oldest" and not batching.control_input
    assert batching.oldest.max_candidate_sequences >= 1000 and config.max_batch_size > 1
    assert [(s.input_name, s.output_name) for s in batching.state] == [
        ("state_in_0", "state_out_0"),
        ("state_in_1", "state_out_1"),
    ]
    assert sum(4 * int(np.prod(s.dims)) for s in batching.state) == frames.state_bytes
    for state in batching.state:
        (begins,) = state.initial_state
        assert begins.zero_data and begins.dims == state.dims and begins.data_type == state.data_type
    assert config.output[0].label_filename == "labels.txt"


def test_clouds_keep_nothing(clouds: dict[str, Any]) -> None:
    for name, most in (("points", 32), ("sparse", 0)):
        config = read_config(model_folder(clouds[name][1]))
        assert not config.HasField("sequence_batching") and config.max_batch_size == most
        assert config.HasField("dynamic_batching") == (most > 0)
        assert any(-1 in item.dims for item in config.input)


def renamed(report: TritonReport, names: dict[str, str]) -> tuple[Any, Any]:
    """The graph and its description with other names of states, both sides alike."""
    path = model_folder(report) / "1" / "model.onnx"
    model, metadata = onnx.load(path), read_metadata(open_session(path), where="the model")
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    text = metadata.to_json()
    for old, new in names.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    return model, type(metadata).from_json(text, where="the model")


def test_states_that_triton_would_pair_otherwise_are_refused(frames: TritonReport) -> None:
    """Its core pairs inputs and outputs of states by their places in the alphabet."""
    model, metadata = renamed(frames, {"state_out_0": "z", "state_out_1": "y"})
    with pytest.raises(ExportError, match="alphabet"):
        config_text(model, metadata, name="m")
    assert "state_in_1" in config_text(*renamed(frames, {"state_out_0": "y", "state_out_1": "z"}), name="m")


def test_a_graph_that_is_not_what_it_says_is_refused(frames: TritonReport) -> None:
    model, metadata = renamed(frames, {})
    model.graph.output[1].name = "other"
    with pytest.raises(ExportError, match="other"):
        config_text(model, metadata, name="m")
    model, metadata = renamed(frames, {})
    model.graph.output[1].type.tensor_type.shape.dim[2].dim_value = 5
    with pytest.raises(ExportError, match="keep its shape"):
        config_text(model, metadata, name="m")


# --- sequences in one call ----------------------------------------------------------------------------------------------------


def interleaved(batcher: Batcher, frames: np.ndarray) -> list[list[np.ndarray]]:
    """Two sequences in one call, one begun anew halfway, then one of them alone; (2, T, 1, 3, H, W) frames."""
    found: list[list[np.ndarray]] = [[], []]
    steps = frames.shape[1]
    for step in range(steps):
        here = (0, 1) if step < steps - 4 else (1,)
        asked = [
            Request({"frame": frames[which, step]}, sequence=7 + which, start=step == 0 or (which == 0 and step == 6))
            for which in here
        ]
        for which, answer in zip(here, batcher.call(asked), strict=True):
            found[which].append(answer["logits"])
    return found


def test_interleaved_sequences_answer_what_two_sessions_do(frames: TritonReport) -> None:
    folder, model = model_folder(frames), small_model()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 32, 3), dtype=np.uint8)
    tensors = np.stack([[model._pixels(picture) for picture in stream] for stream in pictures])
    found = interleaved(Batcher(folder, read_config(folder)), tensors)
    for which, stream in enumerate(pictures):
        session = model.session(fps=None, smoothing=None)
        for step, logits in enumerate(found[which]):
            if which == 0 and step == 6:
                session.reset()
            np.testing.assert_allclose(logits[0], session.update(stream[step]).logits, rtol=0, atol=1e-5)
    assert len(found[0]) == 12 and len(found[1]) == 16


@pytest.mark.parametrize("damage", ["crossed", "not zero", "one state less"])
def test_a_wrong_mapping_of_states_is_noticed(frames: TritonReport, damage: str) -> None:
    """The comparison above can fail."""
    folder = model_folder(frames)
    tensors = np.random.default_rng(0).uniform(0, 255, (2, 10, 1, 3, 32, 32)).astype(np.float32)
    right = interleaved(Batcher(folder, read_config(folder)), tensors)
    config = read_config(folder)
    batcher = Batcher(folder, config)
    if damage == "one state less":
        del config.sequence_batching.state[1]
        batcher = Batcher(folder, config)
        with pytest.raises(ValueError, match="state_in_1"):
            interleaved(batcher, tensors)
        return
    if damage == "not zero":
        config.sequence_batching.state[0].initial_state[0].zero_data = False
        with pytest.raises(AssertionError):
            interleaved(batcher, tensors)
        return
    batcher.pairs = dict(zip(batcher.pairs, reversed(batcher.pairs.values()), strict=True))
    assert np.abs(np.array(interleaved(batcher, tensors)[1]) - np.array(right[1])).max() > 1e-3


# --- the client -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, rng = tmp_path_factory.mktemp("clip") / "clip.mp4", np.random.default_rng(2)
    with VideoWriter(path, fps=20, size=(48, 64)) as video:
        for level in range(30):
            video.write(np.clip(rng.normal(4 * level + 40, 60, (48, 64, 3)), 0, 255).astype(np.uint8))
    return path


def ask(report: TritonReport, url: str, *arguments: str) -> Any:
    return run_kit(model_folder(report) / "client", "--url", url, *arguments, program="client.py")


def test_the_client_answers_what_effvision_does_for_several_sources_at_once(frames: TritonReport, clip: Path) -> None:
    copies = [clip, clip.with_name("again.mp4"), clip.with_name("third.mp4")]
    for copy in copies[1:]:
        copy.write_bytes(clip.read_bytes())
    sources = [word for copy in copies for word in ("--source", str(copy))]
    with served(model_folder(frames)) as (url, server):
        done = ask(frames, url, *sources, "--json")
        assert done.returncode == 0, done.stderr
        assert not server.batcher.states, "a sequence was not ended"
        together = max(server.batcher.together)
    assert together > 1, "nothing was batched"
    got = [json.loads(line) for line in done.stdout.splitlines()]
    for copy in copies:
        wanted = TSM.from_pretrained(model_folder(frames) / "1" / "model.onnx").stream(copy, images=False)
        mine = [answer for answer in got if answer["source"] == str(copy)]
        for found, result in zip(mine, wanted, strict=True):
            said = result.to_dict()
            for name in ("timestamp", "label", "settled", "fresh", "reset_reason"):
                assert found[name] == said[name], (name, found, said)
            assert abs(found["score"] - said["score"]) < 1e-4


def test_a_stream_the_server_forgot_begins_anew(
    frames: TritonReport, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(model_folder(frames)) as (url, server):
        call, calls = server.batcher.call, 0

        def forgetful(requests: Any) -> Any:
            nonlocal calls
            calls += 1
            answers = call(requests)
            if calls == 5:
                server.batcher.states.clear()
            return answers

        monkeypatch.setattr(server.batcher, "call", forgetful)
        done = ask(frames, url, "--source", str(clip), "--json")
        assert done.returncode == 0, done.stderr
        assert [text for text in server.refused if "START" in text] == server.refused != []
    reasons = [json.loads(line)["reset_reason"] for line in done.stdout.splitlines()]
    assert reasons.count("server") == 1 and len(reasons) == 30


def test_the_client_says_what_is_wrong(frames: TritonReport, clip: Path, tmp_path: Path) -> None:
    with served(model_folder(frames)) as (url, _):
        done = ask(frames, url, "--model", "nothing", "--source", str(clip))
        assert done.returncode == 1 and "unknown model" in done.stderr and "Traceback" not in done.stderr
        done = ask(frames, url, "--source", str(tmp_path / "no.mp4"), "--source", str(clip))
        assert done.returncode == 1 and "there is no file" in done.stderr and "s  " in done.stdout
    done = ask(frames, "127.0.0.1:9", "--source", str(clip))
    assert done.returncode == 1 and "does not serve" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["points", "sparse"])
def test_the_client_of_clouds_answers_what_the_predictor_does(
    clouds: dict[str, tuple[Any, TritonReport]], kind: str, tmp_path: Path
) -> None:
    model, report = clouds[kind]
    made = small_sample("scene") if kind == "points" else small_scene("scene")
    fields = {name: values for name, values in made.fields.items() if name in model.inputs.fields}
    scan = write_ply(tmp_path / "scan.ply", made.xyz, **fields)
    with served(model_folder(report)) as (url, _):
        done = ask(report, url, str(scan), "--save", str(tmp_path / "out.ply"), "--json")
    assert done.returncode == 0, done.stderr
    wanted, got = model.predict(scan), open_cloud(tmp_path / "out.ply")
    np.testing.assert_array_equal(got.fields["label"], wanted.labels)
    np.testing.assert_allclose(got.fields["score"], wanted.scores, atol=1e-5)
    assert json.loads(done.stdout)["counts"] == wanted.counts


# --- what is written, and refused ---------------------------------------------------------------------------------------------


def test_the_repository_holds_what_triton_and_a_reader_need(frames: TritonReport, clouds: dict[str, Any]) -> None:
    """Triton takes every folder of a repository for a model, and of a model's only those that are numbers for versions."""
    for report in (frames, clouds["points"][1], clouds["sparse"][1]):
        folder = model_folder(report)
        assert {path.name for path in folder.iterdir()} == {"1", "README.md", "client", "config.pbtxt", "labels.txt"}
        assert report.files == {
            str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
        }
        text = (folder / "README.md").read_text("utf-8")
        assert not re.search(r"@[A-Z_]+@", text) and "Not run:" in text and f"models/{report.model}/ready" in text
        assert "not run in a Triton server" in str(report) and json.dumps(report.to_dict())
    assert {path.name for path in clouds["points"][1].folder.iterdir()} == {"pvcnn-tiny", "minkunet-tiny"}


@pytest.fixture
def quick(frames: TritonReport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was exported once; tests of what is around it take that one."""

    def export(_: Any, path: Path, **__: Any) -> Any:
        shutil.copy(frames.export.path, path)
        return replace(frames.export, path=path)

    monkeypatch.setattr(TSM, "export", export)


@pytest.mark.usefixtures("quick")
def test_an_earlier_model_is_replaced_and_what_is_not_ours_is_kept(tmp_path: Path) -> None:
    model = small_model()
    (tmp_path / "models" / "of-others").mkdir(parents=True)
    first = model.export_kit("triton", tmp_path / "models")
    before = {name: (tmp_path / "models" / first.model / name).read_bytes() for name in first.files}
    again = model.export_kit("triton", tmp_path / "models")
    assert before == {name: (tmp_path / "models" / again.model / name).read_bytes() for name in again.files}
    (tmp_path / "models" / first.model / "2").mkdir()
    with pytest.raises(SourceError, match="holds 2"):
        model.export_kit("triton", tmp_path / "models")
    assert (tmp_path / "models" / "of-others").is_dir() and (tmp_path / "models" / first.model / "2").is_dir()


def bidirectional(place: Path) -> Any:
    return small_model(shift="bidirectional").export_kit("triton", place)


@pytest.mark.parametrize(
    ("attempt", "error", "said"),
    [
        (bidirectional, InputError, "cannot be served"),
        (
            lambda place: PatchNet.untrained("patchnet-synthetic").export_kit("triton", place),
            InputError,
            "between calls",
        ),
        (lambda place: small_model().export_kit("triton", place, int8="tensorrt"), InputError, "--int8 cpu"),
        (lambda place: small_model().export_kit("triton", place / "far" / "away"), SourceError, "mkdir -p"),
        (lambda place: small_model().export_kit("triton", place.with_suffix(".onnx")), InputError, "is a folder"),
        (lambda place: small_model().export_kit("triton", place, frames=[]), EffvisionError, "."),
    ],
)
def test_what_cannot_be_served_is_refused_and_leaves_nothing(
    tmp_path: Path, attempt: Callable[[Path], Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        attempt(tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton, "fill_triton_readme", fails)
    with pytest.raises(SourceError, match="No space left"):
        small_model().export_kit("triton", tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_the_command_line_writes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Predictor, "from_pretrained", lambda *_, **__: small_model())
    command = ["export", "any", "--target", "triton", "--out", str(tmp_path / "models")]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["target"] == "triton" and (tmp_path / "models" / printed["model"] / "config.pbtxt").is_file()
    assert main([*command, "--opset", "13"]) == 2 and "leave it out" in capsys.readouterr().err
    assert main([*command[:3], "tritno", *command[4:]]) == 2 and "did you mean 'triton'" in capsys.readouterr().err
    assert main(["jetson-check", "a.onnx", "--target", "triton"]) == 2 and "is a server" in capsys.readouterr().err
