"""The page called by programs: names, answers, files, limits."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effvision import PVCNN, TSM, PatchNet
from effvision.demos.service import NAMES
from effvision.models.tsm.clips import render_segments
from effvision.sources import VideoWriter, open_cloud
from page_server import CARD, TRACKER, Page, frame_message, read
from waiting import wait_until

gradio_client = pytest.importorskip("gradio_client")
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

FPS = 12.0


@pytest.fixture(scope="module")
def client(page: Page) -> Iterator[Client]:
    with closing(Client(page.url, verbose=False)) as calling:
        yield calling


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("called") / "up.mp4"
    with VideoWriter(path, fps=FPS, size=(120, 160)) as video:
        for frame in render_segments((("up", 2.0),), size=(120, 160), fps=FPS, seed=15)[0]:
            video.write(frame)
    return path


@pytest.fixture(autouse=True)
def clean(page: Page) -> Iterator[None]:
    """Every call gives its place back, and its file."""
    before = set(page.files())
    yield
    assert page.visitors(0) == 0
    wait_until(lambda: not [path for path in set(page.files()) - before if "labelled" not in path.name], seconds=20)


def test_the_calls_have_these_names_and_take_this(client: Client) -> None:
    """What programs rely on: a name that changes breaks them."""
    named: Any = client.view_api(return_format="dict", print_info=False)["named_endpoints"]  # type: ignore[index]
    takes = {name: [one["parameter_name"] for one in call["parameters"]] for name, call in named.items()}
    assert takes == {
        "/models": [],
        "/label_clip": ["clip"],
        "/follow_objects": ["clip", "boxes"],
        "/label_points": ["cloud", "card"],
    }
    assert {f"/{name}" for name in NAMES} == set(takes)
    assert not client.view_api(return_format="dict", print_info=False)["unnamed_endpoints"]  # type: ignore[index]


def test_a_page_opened_beside_calls_does_not_copy_the_app(client: Client, page: Page) -> None:
    """Gradio deep-copies what it tells each page, and complains in its log where that leads to an event loop."""
    client.predict(api_name="/models")
    for name in ("", "config"):
        with urllib.request.urlopen(page.url + name, timeout=60) as answer:
            assert answer.status == 200
    assert "Exception ignored" not in page.log.read_text()


def test_models_says_what_answers_here(client: Client) -> None:
    said = client.predict(api_name="/models")
    assert said["label_clip"]["card"] == CARD and "up" in said["label_clip"]["labels"]
    assert said["follow_objects"]["card"] == TRACKER
    assert said["label_points"]["cards"]["pvcnn-lidarhd"] == ["ground", "low vegetation", "trees", "building"]
    assert said["limits"]["file_s"] > 0 and json.dumps(said)


def test_a_clip_is_answered_as_a_session_answers_it(client: Client, clip: Path) -> None:
    said = client.predict(handle_file(str(clip)), api_name="/label_clip")
    wanted = [
        result
        for result in TSM.from_pretrained(CARD, runtime="onnx", threads=1).stream(clip, images=False)
        if result.fresh and result.settled
    ]
    assert said["card"] == CARD and said["frames"] == 24 and said["whole"]
    assert [answer["label"] for answer in said["answers"]] == [result.label for result in wanted]
    assert [answer["at_s"] for answer in said["answers"]] == [round(result.timestamp, 3) for result in wanted]
    assert said["answers"][-1]["label"] == "up" and abs(said["answers"][-1]["score"] - wanted[-1].score) < 1e-3


def test_objects_are_followed_as_a_session_follows_them(client: Client, clip: Path) -> None:
    box = [40.0, 30.0, 100.0, 90.0]
    said = client.predict(handle_file(str(clip)), [box], api_name="/follow_objects")
    model = PatchNet.from_pretrained(TRACKER, runtime="onnx", threads=1)
    wanted = list(model.stream(clip, boxes=[box], images=False))
    assert len(said["frames"]) == len(wanted) == 24 and said["whole"]
    for frame, result in zip(said["frames"], wanted, strict=True):
        assert [one["id"] for one in frame["objects"]] == result.ids.tolist()
        np.testing.assert_allclose([one["box"] for one in frame["objects"]], result.boxes, atol=0.01)


def test_points_come_back_labelled_in_a_file(client: Client, tmp_path: Path) -> None:
    scan = PVCNN.write_sample(tmp_path / "scan.ply", card="pvcnn-parts")
    said, path = client.predict(handle_file(str(scan)), "pvcnn-parts", api_name="/label_points")
    wanted = PVCNN.from_pretrained("pvcnn-parts", runtime="onnx").predict(scan)
    assert said["card"] == "pvcnn-parts" and said["points"] == len(wanted.labels)
    assert said["counts"] == wanted.counts
    np.testing.assert_array_equal(open_cloud(path).fields["label"], wanted.labels)
    assert Path(path).name == "scan-labelled.ply"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (({"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},), "/label_clip"),
        (({"path": "http://127.0.0.1:9/x.mp4", "meta": {"_type": "gradio.FileData"}},), "/label_clip"),
        (({"meta": {"_type": "gradio.FileData"}}, [[{"path": "/etc/passwd"}]]), "/follow_objects"),
        (({"no": 1}, ""), "/label_points"),
        (("text",), "/label_clip"),
        (({"path": "@UPLOADS@/no/such.mp4"},), "/label_clip"),
    ],
)
def test_only_files_that_were_uploaded_are_taken(page: Page, arguments: Any, name: str, clip: Path) -> None:
    """Sent by hand, for the client would refuse some of it itself; Gradio would copy such files, and fetch such addresses."""
    uploads = Path(page.upload("some.mp4", clip.read_bytes())).parents[1]
    asked = json.dumps({"data": arguments}).replace("@UPLOADS@", str(uploads)).encode()
    address, before = f"{page.url}gradio_api/call{name}", set(page.files())
    try:
        request = urllib.request.Request(address, asked, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{address}/{event}", timeout=60) as answer:
            told = answer.read().decode()
        assert "event: error" in told
    except urllib.error.HTTPError as error:
        told = f"{error.code} {error.read().decode()}"
    assert "uploaded here" in told
    assert set(page.files()) <= before, "something was copied"
    next(path for path in page.files() if path.name == "some.mp4").unlink()


def test_what_cannot_be_answered_is_said(client: Client, page: Page, clip: Path, tmp_path: Path) -> None:
    picture = tmp_path / "up.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(AppError, match=r"up\.png is a picture"):  # a small one may be huge when it is unpacked
        client.predict(handle_file(str(picture)), api_name="/label_clip")
    notes = tmp_path / "notes.mp4"
    notes.write_bytes(b"no video at all" * 100)
    with pytest.raises(AppError, match=r"notes\.mp4"):
        client.predict(handle_file(str(notes)), api_name="/label_clip")
    with pytest.raises(AppError, match="1 to 24 boxes"):
        client.predict(handle_file(str(clip)), [], api_name="/follow_objects")
    with pytest.raises(AppError, match="no file of points"):
        client.predict(handle_file(str(clip)), "", api_name="/label_points")
    scan = PVCNN.write_sample(tmp_path / "scan.ply", card="pvcnn-parts")
    with pytest.raises(AppError, match="there is no model 'other'"):
        client.predict(handle_file(str(scan)), "other", api_name="/label_points")
    log = page.log.read_text()
    assert str(page.folder) not in log and "Traceback" not in log


def test_no_call_goes_past_the_line(page: Page) -> None:
    """Gradio's own routes without a queue know neither how many may run nor how many may wait."""
    for name in ("models", "label_clip"):
        request = urllib.request.Request(
            f"{page.url}gradio_api/run/{name}", b'{"data": []}', {"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request, timeout=60)


def test_a_call_takes_a_place_and_keeps_the_limits_of_the_page(small_page: Page, clip: Path, tmp_path: Path) -> None:
    """Room for one visitor, one second of a file, 100 kB."""
    assert small_page.visitors(0) == 0
    with closing(Client(small_page.url, verbose=False)) as client:
        said = client.predict(handle_file(str(clip)), api_name="/label_clip")
        assert not said["whole"] and said["frames"] == 13
        with small_page.talk() as socket:
            read(socket, "hello")
            with pytest.raises(AppError, match="1 places are taken"):
                client.predict(handle_file(str(clip)), api_name="/label_clip")
            socket.send(frame_message(np.zeros((48, 64, 3), np.uint8), 0.0, 1))
            assert read(socket, "answer")["id"] == 1
        large = tmp_path / "large.mp4"
        large.write_bytes(bytes(200_000))
        with pytest.raises(Exception, match="maximum file size"):
            client.predict(handle_file(str(large)), api_name="/label_clip")
    assert small_page.visitors(0) == 0
