"""What the editing tab and the server say to each other: strokes, undo, refusals, times; and that visitors do not mix."""

from __future__ import annotations

import asyncio
import gc
import json
import struct
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_socket import FakeSocket

from effvision.cards import get_card
from effvision.demos.channel import BROKEN, Limits, Models
from effvision.demos.editing import MODES, EditVisitor, hello
from effvision.demos.painting import Box, Painting, bounds, part
from effvision.errors import InputError, RuntimeFailure
from effvision.models.sige.encoding import parse_encoding
from effvision.models.sige.scenes import NAMES, coloured, layout
from label_map_files import png

CARD = get_card("sige-scenes")
ENCODING = parse_encoding(CARD.preprocess, CARD.labels)
WATER, ROCK = NAMES.index("water"), NAMES.index("rock")
SPOT: Box = (100, 60, 12, 10)  # of the sky, far from everything else


@pytest.fixture(scope="module")
def model() -> Any:
    from effvision import SIGE

    return SIGE.from_pretrained(runtime="onnx")


def painting(model: Any, *, labels: np.ndarray | None = None, most: int = 100, **options: Any) -> Painting:
    made = Painting(model.session(**options), layout(7) if labels is None else labels, threading.Lock(), most)
    made.begin()
    return made


def spot(label: int, box: Box = SPOT) -> np.ndarray:
    return np.full((box[3], box[2]), label, np.uint8)


# --- a painting ---------------------------------------------------------------------------------------------------------


def test_a_stroke_changes_the_picture_around_it_and_is_undone_bit_for_bit(model: Any) -> None:
    own = painting(model)
    before, labels = own.shown.copy(), own.labels
    assert np.array_equal(before, model.predict(labels).image)
    drawn = [own.paint(5, (SPOT[0] + step, *SPOT[1:]), spot(ROCK)) for step in (0, 12, 24)]
    changed = bounds((own.shown != before).any(axis=2))
    assert changed[0] > SPOT[0] - 64 and changed[2] < 36 + 128 and changed != (0, 0, 0, 0)
    assert all(0 < one.said["share"] < 0.6 and one.said["took_ms"] > 0 for one in drawn)
    assert all(one.pixels.shape == (one.picture[3], one.picture[2], 3) for one in drawn)
    painted, shown = own.labels, own.shown.copy()
    assert drawn[-1].said["undo"] == 1, "what carries the same number is one stroke"
    back = own.undo()
    assert np.array_equal(own.shown, before) and np.array_equal(own.labels, labels)
    assert back.labels == (100, 60, 36, 10) and np.array_equal(part(labels, back.labels), back.map)
    assert (back.said["undo"], back.said["redo"]) == (0, 1)
    own.redo()
    assert np.array_equal(own.shown, shown) and np.array_equal(own.labels, painted)
    with pytest.raises(InputError, match="nothing to redo"):
        own.redo()


def test_what_was_drawn_is_what_the_page_is_sent(model: Any) -> None:
    """A page that knows only what it was sent has the picture of the session, over strokes, another map and undo."""
    own = painting(model)
    page = own.shown.copy()
    rng = np.random.default_rng(0)
    for number in range(6):
        left, top = rng.integers(0, 200, 2).tolist()
        drawn = own.paint(number, (left, top, 40, 9), spot(int(rng.integers(15)), (0, 0, 40, 9)))
        part(page, drawn.picture)[...] = drawn.pixels
        assert np.array_equal(page, own.session.update(own.labels).image)
    for act in (lambda: own.replace(9, layout(8)), own.undo, own.undo, own.redo):
        drawn = act()
        part(page, drawn.picture)[...] = drawn.pixels
        assert np.array_equal(page, own.session.update(own.labels).image)


def test_a_stroke_whose_steps_are_forgotten_is_undone_by_computing_it_anew(model: Any) -> None:
    own = painting(model, mode="exact", journal_mb=0.0)
    before = own.shown.copy()
    own.paint(1, SPOT, spot(ROCK))
    own.paint(2, SPOT, spot(WATER))
    for left in (1, 0):
        said = own.undo().said
        assert "computed anew" in said["note"] and said["undo"] == left
    assert np.abs(own.shown.astype(int) - before).max() <= 1, "of a mode that is exact up to rounding"
    own.redo()
    assert (part(own.labels, SPOT) == ROCK).all()


def test_only_so_many_strokes_are_kept(model: Any) -> None:
    own = painting(model, most=3)
    for number in range(5):
        own.paint(number, SPOT, spot(number))
    assert [own.undo().said["undo"] for _ in range(3)] == [2, 1, 0]
    assert (part(own.labels, SPOT) == 1).all()


def test_a_full_pass_is_measured_and_compared(model: Any) -> None:
    own = painting(model, mode="exact")
    own.paint(1, SPOT, spot(ROCK))
    found = own.measure(model.session(mode="exact"))
    assert found["ms"] >= found["network_ms"] > 0 and found["most"] <= 1
    own.shown[3, 4, 0] ^= 64  # as if something had gone wrong
    assert own.measure(model.session(mode="exact"))["most"] >= 63


# --- a visitor ----------------------------------------------------------------------------------------------------------


class Answers(FakeSocket):
    """A page that reads what it is sent."""

    async def send_bytes(self, data: bytes) -> None:
        length = struct.unpack_from("<I", data)[0]
        said, at = json.loads(data[4 : 4 + length]), 4 + length
        for name, unit in (("picture", 3), ("area", 0), ("labels", 1)):
            wide, high = said[name][2:]
            count = wide * high * unit if unit else -(-wide * high // 8)
            said[f"{name}_bytes"], at = data[at : at + count], at + count
        assert at == len(data)
        self.heard.append(said)

    def paint(self, number: int, stroke: int, box: Box, label: int) -> None:
        self.say(struct.pack("<BIIHHHH", 1, number, stroke, *box) + spot(label, box).tobytes())

    async def answer(self, number: int) -> dict[str, Any]:
        """Wait for the answer of this number."""

        async def there() -> dict[str, Any]:
            while True:
                for said in self.heard:
                    if said.get("id") == number and said["kind"] != "hello" and (number or said.get("all")):
                        return dict(said)
                await asyncio.sleep(0.005)

        return await asyncio.wait_for(there(), 60)


class OneModel(Models):
    def __init__(self, model: Any) -> None:
        super().__init__(CARD.name, ("onnx", "torch"))
        self._loaded = dict.fromkeys(self.runtimes, model)


def visit(
    model: Any, *talks: Callable[[Answers, EditVisitor], Awaitable[None]], limits: Limits | None = None
) -> list[EditVisitor]:
    """Let each talk to a visitor of its own, all at once; return the visitors when they have left."""
    rules, turn = limits or Limits(), threading.Lock()
    greeting = hello(CARD, ENCODING, ("onnx", "torch"), rules)

    async def one(talk: Callable[[Answers, EditVisitor], Awaitable[None]]) -> EditVisitor:
        socket = Answers()
        visitor = EditVisitor(
            socket,
            encoding=ENCODING,
            turn=turn,
            models=OneModel(model),
            hello=greeting,
            uploads=Path("nowhere"),
            samples={},
            limits=rules,
            workers=asyncio.to_thread,
        )
        running = asyncio.create_task(visitor.run())
        await socket.answer(0)
        await talk(socket, visitor)
        socket.leave()
        await asyncio.wait_for(running, 60)
        return visitor

    async def all_of_them() -> list[EditVisitor]:
        return list(await asyncio.gather(*map(one, talks)))

    return asyncio.run(all_of_them())


def test_the_map_comes_before_the_picture_and_leaving_frees_the_session(model: Any) -> None:
    held: list[weakref.ref[Any]] = []

    async def talk(page: Answers, visitor: EditVisitor) -> None:
        kinds = [(said["kind"], said.get("all", False)) for said in page.heard]
        assert kinds == [("hello", False), ("drawn", False), ("drawn", True)]
        assert page.heard[1]["labels_bytes"] == layout(7).tobytes() and not page.heard[1]["picture_bytes"]
        assert page.heard[2]["picture_bytes"] == model.predict(layout(7)).image.tobytes()
        assert page.heard[0]["names"] == list(NAMES) and page.heard[0]["size"] == [256, 256]
        held.append(weakref.ref(visitor._session.session))

    visit(model, talk)
    gc.collect()
    assert held[0]() is None


def test_two_visitors_paint_two_pictures(model: Any) -> None:
    seen: dict[int, bytes] = {}

    def painter(label: int) -> Callable[[Answers, EditVisitor], Awaitable[None]]:
        async def talk(page: Answers, visitor: EditVisitor) -> None:
            for number in range(1, 5):
                page.paint(number, 1, (20 * number, 40, 20, 20), label)
                assert (await page.answer(number))["undo"] == 1
            seen[label] = visitor._session.shown.tobytes()

        return talk

    visit(model, painter(WATER), painter(ROCK))
    for label, picture in seen.items():
        own = painting(model)
        for number in range(1, 5):
            own.paint(1, (20 * number, 40, 20, 20), spot(label, (0, 0, 20, 20)))
        assert picture == own.shown.tobytes()


def test_what_fails_leaves_the_painting_and_is_told(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(page: Answers, visitor: EditVisitor) -> None:
        page.paint(1, 1, SPOT, ROCK)
        await page.answer(1)
        painted, shown = visitor._session.labels.copy(), visitor._session.shown.copy()
        for number, failure in enumerate((RuntimeFailure("no memory left"), ValueError("a fault of ours")), 2):
            with monkeypatch.context() as broken:
                broken.setattr(
                    visitor._session.session, "update", lambda *_, failure=failure: (_ for _ in ()).throw(failure)
                )
                page.paint(number, 2, SPOT, WATER)
                said = await page.answer(number)
            assert said["kind"] == "refused" and said["labels_bytes"] == painted.tobytes()
            assert said["text"] == ("no memory left" if number == 2 else BROKEN)
        page.paint(4, 2, (250, 0, 12, 10), WATER)  # beyond the right edge
        page.say(struct.pack("<BIIHHHH", 1, 5, 2, *SPOT) + bytes(7))
        page.paint(6, 2, SPOT, 15)  # no class
        page.say({"do": "scene", "id": 7, "stroke": 3, "seed": -1})
        page.say({"do": "mode", "id": 8, "name": "quick"})
        page.say({"do": "runtime", "id": 9, "name": "tensorrt"})
        page.say({"do": "redo", "id": 10})
        page.say(struct.pack("<BII", 2, 11, 3) + b"no picture")
        words = ("250, 0", "12 x 10 pixels", "15", "seed", "quick", "tensorrt", "nothing to redo", "no PNG")
        for number, word in enumerate(words, 4):
            said = await page.answer(number)
            assert said["kind"] == "refused" and word in said["text"], said["text"]
        assert np.array_equal(visitor._session.labels, painted) and np.array_equal(visitor._session.shown, shown)
        for message in (b"", b"\x07", b"\x01\x02"):
            page.say(message)
        page.inbox.put_nowait({"type": "websocket.receive", "text": "{}"})
        page.say({"do": "dance", "id": 12})
        await page.wait_for("error", 5)
        page.paint(13, 2, SPOT, WATER)
        assert (await page.answer(13))["undo"] == 2

    visit(model, talk)
    assert "a fault of ours" in caplog.text


def test_files_scenes_and_modes(model: Any) -> None:
    async def talk(page: Answers, visitor: EditVisitor) -> None:
        page.say(struct.pack("<BII", 2, 1, 1) + png(coloured(layout(9))))
        opened = await page.answer(1)
        assert np.array_equal(visitor._session.labels, layout(9)) and opened["undo"] == 1 and opened["labels_bytes"]
        page.say({"do": "scene", "id": 2, "stroke": 2, "seed": 11})
        assert (await page.answer(2))["undo"] == 2
        assert np.array_equal(visitor._session.labels, layout(11))
        page.say({"do": "undo", "id": 3})
        assert (await page.answer(3))["labels_bytes"]
        assert np.array_equal(visitor._session.labels, layout(9))
        page.say({"do": "mode", "id": 4, "name": "exact"})
        changed = await page.answer(4)
        assert changed["all"] and changed["mode"] == "exact" and "equal to the full pass" in changed["promise"]
        assert (changed["undo"], changed["redo"]) == (0, 0)
        page.paint(5, 3, SPOT, ROCK)
        await page.answer(5)
        page.say({"do": "measure", "id": 6})
        measured = await page.answer(6)
        assert measured["kind"] == "measured" and measured["ms"] > 0 and measured["most"] <= 1
        assert np.array_equal(visitor._session.labels[60:70, 100:112], spot(ROCK))
        page.say({"do": "runtime", "id": 7, "name": "torch"})
        changed = await page.answer(7)
        assert changed["all"] and (changed["runtime"], changed["mode"], changed["undo"]) == ("torch", "exact", 0)
        assert changed["picture_bytes"] == visitor._session.shown.tobytes() and visitor._session.labels[60, 100] == ROCK

    assert MODES == ("local", "exact", "frozen")
    visit(model, talk)


def test_who_sends_too_much_waits(model: Any) -> None:
    async def talk(page: Answers, visitor: EditVisitor) -> None:
        began = time.monotonic()
        for number in range(1, 7):
            page.paint(number, 1, SPOT, ROCK)
        await page.answer(6)
        assert time.monotonic() - began >= 5 / 10

    visit(model, talk, limits=Limits(updates_s=10.0))
