"""The tab of point clouds without a browser: what is sent, what comes back, what is refused, and what is left behind."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from cloud_files import every_format, las_header, npy, npy_header, npz, pcd, some_columns, write
from effvision import PVCNN, open_cloud
from effvision.cards import Card, get_card, list_cards, predictor_class
from effvision.demos.channel import Limits
from effvision.demos.labelling import POINT, Job, check_name, stated_bytes, stated_points
from effvision.demos.points import FAMILIES
from effvision.errors import CardError, InputError
from effvision.models.pvcnn.sample import small_sample, write_sample
from effvision.sample_scenes import sample_scene
from effvision.sources.cloud_writer import write_ply
from effvision.viz import class_colors
from page_server import Page, read, served
from waiting import wait_until

SCENE, PARTS = "pvcnn-lidarhd", "pvcnn-parts"
PIECE = 2**19


@pytest.fixture(scope="session")
def small_points(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page that takes small clouds, and one of whose models cannot be loaded."""
    program = (
        "import json\n"
        "from effvision.demos.channel import Limits, Models\n"
        "from effvision.demos.server import Server\n"
        "from effvision.errors import ModelFileError\n"
        "get = Models.get\n"
        "def broken(self, runtime):\n"
        "    if self.card == 'pvcnn-parts':\n"
        "        raise ModelFileError('its file is damaged\\nhint: export it again')\n"
        "    return get(self, runtime)\n"
        "Models.get = broken\n"
        "limits = Limits(visitors=1, upload_bytes=400_000, points=4000, shown_points=500, kept_s=3.0)\n"
        "with Server('pvcnn-lidarhd', port=0, limits=limits) as server:\n"
        "    print(json.dumps({'url': server.url}), flush=True)\n"
        "    server.wait()\n"
    )
    folder = tmp_path_factory.mktemp("small_points")
    with served(folder, ["-c", program]) as running:
        yield running


def clouds(page: Page) -> list[Path]:
    """Files of visitors of this tab that lie on the server."""
    return [path for path in page.folder.glob("effvision-demo-*/clouds/**/*") if path.is_file()]


def gone(page: Page) -> None:
    wait_until(lambda: not list(page.folder.glob("effvision-demo-*/clouds/*")))


def send(socket: ClientConnection, data: bytes, name: str, *, card: str = SCENE, turn: int = 1, **more: Any) -> None:
    asked = {"do": "label", "turn": turn, "card": card, "runtime": "onnx", "name": name, "bytes": len(data), **more}
    socket.send(json.dumps(asked))
    for at in range(0, len(data), PIECE):
        socket.send(data[at : at + PIECE])


def ask_sample(socket: ClientConnection, *, card: str = PARTS, turn: int = 1, seed: int = 0) -> None:
    socket.send(json.dumps({"do": "label", "turn": turn, "card": card, "runtime": "onnx", "sample": seed}))


def message(socket: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(socket.recv(timeout=120))
    return found


def after_progress(socket: ClientConnection) -> dict[str, Any]:
    """The first message that tells no progress."""
    while (said := message(socket))["kind"] == "progress":
        pass
    return said


def labelled(socket: ClientConnection) -> tuple[dict[str, Any], np.ndarray]:
    """What is told of the labelled cloud, and its points."""
    said = after_progress(socket)
    assert said["kind"] == "result", said
    data = b""
    while len(data) < said["bytes"]:
        piece = socket.recv(timeout=120)
        assert isinstance(piece, bytes)
        data += piece
    return said, np.frombuffer(data, POINT)


def fetch(page: Page, token: str) -> tuple[bytes, str]:
    with urllib.request.urlopen(f"{page.url}effvision/points/{token}.ply", timeout=120) as answer:
        return answer.read(), answer.headers["Content-Disposition"]


def test_the_page_is_told_models_colours_and_limits(page: Page) -> None:
    with page.talk("points") as socket:
        hello = read(socket, "hello")
    offered = [card.name for family in FAMILIES for card in list_cards(family) if card.bundled]
    assert [card["name"] for card in hello["cards"]] == offered and "spvcnn-lidarhd" in offered
    for card in hello["cards"]:
        assert card["labels"] == list(get_card(card["name"]).class_names)
        assert card["colours"] == class_colors(card["labels"]).tolist()
        kind: Any = predictor_class(get_card(card["name"]).family)
        assert card["fields"] == list(kind.from_pretrained(card["name"], runtime="onnx").fields)
    assert hello["card"] == SCENE and ".ply" in hello["suffixes"] and hello["runtimes"][0]["name"] == "onnx"


@pytest.mark.parametrize("card", [SCENE, PARTS])
def test_the_answer_is_the_predictors_own(page: Page, tmp_path: Path, card: str) -> None:
    kind = str(get_card(card).preprocess["kind"])
    made = small_sample(kind, seed=3)
    fields = {name: values for name, values in made.fields.items() if name != "rgb"}
    file = write_ply(tmp_path / "mine.ply", made.xyz, rgb=made.fields.get("rgb"), **fields)
    wanted = PVCNN.from_pretrained(card, runtime="onnx").predict(file)
    with page.talk("points") as socket:
        read(socket, "hello")
        send(socket, file.read_bytes(), "C:\\clouds/../mine.ply", card=card)
        said, points = labelled(socket)
        saved, name = fetch(page, said["token"])
    assert said["name"] == "mine.ply" and "mine-labelled.ply" in name
    assert said["counts"] == list(wanted.counts.values()) and said["points"] == len(wanted) == said["shown"]
    assert {"receive", "read", "prepare", "network", "save"} <= set(said["times"]) and said["every"] == 1
    got = open_cloud(write(tmp_path, "got.ply", saved))
    assert np.array_equal(got.fields["label"], wanted.labels) and np.array_equal(got.fields["rgb"], wanted.rgb)
    assert np.array_equal(got.xyz, made.xyz)
    assert got.fields["score"] == pytest.approx(wanted.scores, abs=1e-6)
    # what is drawn is the same: each point at its place with its class, its score and its colour
    places = np.array(said["low"]) + points["place"] / 65535 * np.array(said["size"])
    from_them, ours = np.lexsort(points["place"].T), np.lexsort(quantised(made.xyz).T)
    assert places[from_them] == pytest.approx(made.xyz[ours], abs=max(said["size"]) / 60000)
    same = np.unique(quantised(made.xyz), axis=0, return_index=True)[1]  # two points in one step have no order
    assert len(same) > 0.99 * len(made)
    lone = np.isin(ours, same)
    assert np.mean(points["label"][from_them][lone] == wanted.labels[ours][lone]) > 0.995
    assert sorted(points["score"]) == sorted(np.rint(wanted.scores * 255))
    assert said["coloured"] == ("rgb" in made.fields)
    if said["coloured"]:
        assert np.array_equal(np.sort(points["rgb"], axis=0), np.sort(made.fields["rgb"], axis=0))


def quantised(xyz: np.ndarray) -> np.ndarray:
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    return np.rint((xyz - low) / (high - low) * 65535).astype(int)


def test_samples_differ_and_need_no_file(page: Page, tmp_path: Path) -> None:
    with page.talk("points") as socket:
        read(socket, "hello")
        sizes = []
        for seed in (0, 5):
            ask_sample(socket, seed=seed, turn=seed)
            said, _ = labelled(socket)
            sizes.append(said["size"])
        wanted = PVCNN.from_pretrained(PARTS, runtime="onnx").predict(
            write_sample(tmp_path / "s.ply", kind="object", seed=5)
        )
        assert said["counts"] == list(wanted.counts.values()) and said["turn"] == 5
        assert sizes[0] != sizes[1] and "receive" not in said["times"]
        assert len(clouds(page)) == 1, "the labelled cloud that can be fetched, and nothing else"
    gone(page)


XYZ = np.random.default_rng(0).normal(0, 5, (100, 3)).astype(np.float32)
PACKED = npz(xyz=XYZ)
BAD: dict[str, tuple[str, bytes, str, str]] = {
    "picture": ("scan.ply", b"\x89PNG\r\n\x1a\n" + bytes(200), "does not begin as a .ply file does", SCENE),
    "nan": ("scan.npy", npy(np.where(np.arange(300).reshape(100, 3) == 7, np.nan, XYZ)), "NaN", PARTS),
    "fields": ("scan.npz", npz(xyz=XYZ), "lacks `intensity`", SCENE),
    "cut short": ("scan.ply", every_format()["little.ply"][:400], "cut short", SCENE),
    "empty": ("scan.ply", b"", "is empty", SCENE),
    "labels": ("scan.label", b"1 2 3", "is a file of labels, not a cloud", SCENE),
    "program": ("run.exe", b"MZ", "no file of points by its name", SCENE),
    "no name": ("", b"1 2 3", "no file of points by its name", SCENE),
    "header": ("scan.npy", npy_header("(((", (4, 3)), "scan.npy", PARTS),
    "deflate": ("scan.npz", bytes(b ^ 255 if 60 < i < 90 else b for i, b in enumerate(PACKED)), "scan.npz", PARTS),
    "one point": ("scan.xyz", b"1 2 3\n", "point", PARTS),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_explained_and_deleted(page: Page, case: str) -> None:
    name, data, words, card = BAD[case]
    with page.talk("points") as socket:
        read(socket, "hello")
        send(socket, data, name, card=card, turn=7)
        said = after_progress(socket)
        assert said["kind"] == "error" and words in said["text"] and said["turn"] == 7, said
        assert str(page.folder) not in said["text"], "the server's own paths are nobody's business"
        if case not in ("cut short", "empty", "picture", "one point", "header", "deflate"):
            assert "\nhint: " in said["text"]
        assert not clouds(page)
        ask_sample(socket, turn=8)  # and the visitor may go on
        assert labelled(socket)[0]["turn"] == 8


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("no JSON", "a command is"),
        ("[" * 100_000, "a command is"),
        ({"do": "dance"}, "unknown command"),
        ({"do": "label", "card": "tsm-mobilenetv2-motion", "sample": 0}, "there is no model"),
        ({"do": "label", "card": ["x"], "sample": 0}, "there is no model"),
        ({"do": "label", "card": PARTS, "runtime": "onnx", "sample": -1}, "a sample's number"),
        ({"do": "label", "card": PARTS, "runtime": "abacus", "sample": 0}, "got 'abacus'"),
        ({"do": "label", "card": PARTS, "runtime": "onnx", "name": "a.ply", "bytes": "many"}, "size of the file"),
        ({"do": "label", "card": PARTS, "runtime": "onnx", "name": "a.ply", "bytes": 10**9}, "954 MB; the limit"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(page: Page, asked: Any, words: str) -> None:
    with page.talk("points") as socket:
        read(socket, "hello")
        socket.send(asked if isinstance(asked, str) else json.dumps(asked))
        said = after_progress(socket)
        assert said["kind"] == "error" and words in said["text"]
        socket.send(b"bytes nobody waits for")
        ask_sample(socket)
        assert labelled(socket)[0]["points"] == 2048


def test_more_bytes_than_were_announced_are_refused(page: Page) -> None:
    with page.talk("points") as socket:
        read(socket, "hello")
        send(socket, bytes(1000), "a.bin", bytes=500)
        said = after_progress(socket)
        assert said["kind"] == "error" and "longer than it was said" in said["text"]
        assert not clouds(page)


def test_too_many_points_are_refused_and_many_are_thinned(small_points: Page, tmp_path: Path) -> None:
    cloud = sample_scene(1, side_m=40.0, points_per_m2=1.5)
    few = cloud.select(np.arange(1200))
    fields = {name: few.fields[name] for name in ("intensity", "return_number", "num_returns")}
    file = write_ply(tmp_path / "few.ply", few.xyz, **fields)
    with small_points.talk("points") as socket:
        read(socket, "hello")
        send(socket, npy(np.zeros((4001, 3), np.float32)), "many.npy")
        said = after_progress(socket)
        assert "many.npy has 4,001 points; this page takes 4,000\nhint: " in said["text"]
        send(socket, "\n".join(["1 2 3"] * 4001).encode(), "many.txt")  # no header says so
        assert "many.txt has 4,001 points" in after_progress(socket)["text"]
        send(socket, file.read_bytes(), "few.ply", turn=2)
        said, points = labelled(socket)
        saved, _ = fetch(small_points, said["token"])
    assert (said["points"], said["every"], said["shown"], len(points)) == (1200, 3, 400, 400)
    assert sum(said["counts"]) == 1200 == len(open_cloud(write(tmp_path, "got.ply", saved)))


def test_a_model_that_cannot_be_loaded_is_told_in_its_tab(small_points: Page) -> None:
    gone(small_points)
    with small_points.talk("points") as socket:
        read(socket, "hello")
        ask_sample(socket, card=PARTS)
        assert after_progress(socket)["text"] == "its file is damaged\nhint: export it again"
        ask_sample(socket, card=SCENE, seed=1)
        assert "points; this page takes 4,000" in after_progress(socket)["text"]  # the other works so far


def test_places_are_limited_and_silence_gives_one_back(small_points: Page) -> None:
    gone(small_points)
    with small_points.talk("points") as first, small_points.talk("points") as second:
        read(first, "hello")
        assert "places are taken" in read(second, "error")["text"]
        wait_until(lambda: not list(small_points.folder.glob("effvision-demo-*/clouds/*")))  # after `kept_s`
        with small_points.talk("points") as third:
            read(third, "hello")


def test_only_its_own_page_may_talk_to_it(page: Page) -> None:
    with pytest.raises(InvalidStatus), page.talk("points", origin="https://example.org"):
        pass
    with page.talk("points", origin=page.url.rstrip("/")) as socket:
        read(socket, "hello")


def test_a_labelled_cloud_is_gone_with_its_visitor(page: Page) -> None:
    with page.talk("points") as socket:
        read(socket, "hello")
        ask_sample(socket)
        token = labelled(socket)[0]["token"]
        assert fetch(page, token)[0].startswith(b"ply")
        for wrong in (token[:-1], "..%2f..%2fupload", ""):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                fetch(page, wrong)
    gone(page)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(page, token)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    cloud = sample_scene(2, side_m=190.0)
    fields = {name: cloud.fields[name] for name in ("intensity", "return_number", "num_returns")}
    return write_ply(tmp_path_factory.mktemp("large") / "large.ply", cloud.xyz, **fields).read_bytes()


def until_network(socket: ClientConnection, share: float) -> tuple[float, float]:
    """Wait until so much is labelled; return the seconds that took and those the rest would take."""
    began, stages = time.monotonic(), []
    while True:
        said = read(socket, "progress")
        stages.append(said["stage"])
        if said["stage"] != "network":
            began = time.monotonic()  # the last word before: the first of the network may be late
        elif said["done"] > share * said["total"]:
            took = time.monotonic() - began
            assert stages[0] == "receive" and stages.index("network") > stages.count("receive")
            return took, took * (said["total"] - said["done"]) / said["done"]


@pytest.mark.alone
@pytest.mark.parametrize("way", ["cancel", "another", "close"])
def test_what_nobody_wants_any_more_is_stopped_and_deleted(page: Page, large: bytes, way: str) -> None:
    with page.talk("points") as socket, page.talk("points") as other:
        read(socket, "hello"), read(other, "hello")
        send(socket, large, "large.ply")
        _, rest = until_network(socket, 0.2)
        assert len(clouds(page)) == 1
        stopped = time.monotonic()
        if way == "cancel":
            socket.send('{"do": "cancel"}')
        elif way == "close":
            socket.close()
        else:
            ask_sample(socket, turn=2)
            while (said := message(socket))["turn"] == 1:  # what was on its way
                assert said["kind"] == "progress"
        ask_sample(other)
        assert labelled(other)[0]["points"] == 2048
        assert time.monotonic() - stopped < rest, "it went on to its end"
        if way == "cancel":
            wait_until(lambda: len(clouds(page)) == 1)  # of the other
    gone(page)


def test_one_is_labelled_at_a_time_and_the_others_are_told_their_place(page: Page, large: bytes) -> None:
    with page.talk("points") as first, page.talk("points") as second, page.talk("points") as third:
        for socket in (first, second, third):
            read(socket, "hello")
        send(first, large, "large.ply")
        until_network(first, 0.01)
        ask_sample(second)
        assert (read(second, "progress") | {"turn": 0})["done"] == 1
        ask_sample(third)
        assert read(third, "progress")["done"] == 2
        second.close()  # leaves the line
        assert read(third, "progress") == {"kind": "progress", "turn": 1, "stage": "wait", "done": 1, "total": 0}
        first.close()
        assert labelled(third)[0]["points"] == 2048


def test_files_say_how_many_points_they_hold(tmp_path: Path) -> None:
    known = {"ascii.ply", "little.ply", "big.ply", "ascii.pcd", "binary.pcd", "packed.pcd", "plain.npy", "named.npz"}
    for name, data in every_format(50).items():
        assert stated_points(write(tmp_path, name, data)) == (50 if name in known else None), name
        assert stated_points(write(tmp_path, name, data[:9])) is None  # damaged: whoever reads it says so
    assert stated_points(write(tmp_path, "tile.las", las_header(10**10))) == 10**10
    assert stated_points(tmp_path / "nowhere.ply") is None


def test_a_name_is_only_what_is_shown() -> None:
    assert check_name("/etc/../a/b\x00\n.PLY") == "b.PLY"
    assert len(check_name("x" * 500 + ".ply")) == 80
    for name in (None, 3, "ply", "a.ply.exe"):
        with pytest.raises(InputError, match="by its name"):
            check_name(name)


def test_a_family_without_a_tab_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from effvision.demos import server

    other = Card("other-card", "other", "none", "", "", "", "", "", {}, {})
    monkeypatch.setattr(server, "get_card", lambda name: other)
    with pytest.raises(CardError, match=r"no tab for the family other .* tabs for tsm, patchnet, pvcnn"):
        server.Server("other-card", port=0)


def test_what_a_file_unpacks_to_is_known_before_it_is_read(tmp_path: Path) -> None:
    cases = {
        "a.npz": (npz(xyz=np.zeros((1000, 3))), 24_000),
        "a.las": (las_header(700, row=30), 21_000),
        "a.pcd": (pcd(some_columns(50), "binary_compressed"), 50 * 12),
        "a.ply": (every_format()["little.ply"], 0),
        "b.npz": (PACKED[:50], 0),
    }
    for name, (data, least) in cases.items():
        found = stated_bytes(write(tmp_path, name, data))
        assert least <= found <= 2 * least + 100 * bool(least), name
    path = tmp_path / "a.npz"
    models: Any = SimpleNamespace(card=PARTS, get=lambda runtime: None)
    job = Job(models, "onnx", path, "mine.npz", tmp_path / "out.ply", Limits(unpacked_bytes=10_000))
    with pytest.raises(InputError, match=r"mine.npz unpacks to .*\nhint: "):
        job.run()


def test_one_cloud_does_not_keep_the_others_waiting_for_ever(tmp_path: Path) -> None:
    xyz = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    models: Any = SimpleNamespace(card=PARTS, get=lambda runtime: PVCNN.from_pretrained(PARTS))
    path = write(tmp_path, "a.npy", npy(xyz))
    job = Job(models, "onnx", path, "mine.npy", tmp_path / "out.ply", Limits(labelling_s=1e-6))
    with pytest.raises(InputError, match=r"mine.npy took more than .*\nhint: the command line has no limit"):
        job.run()
