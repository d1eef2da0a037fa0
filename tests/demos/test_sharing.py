"""Who gets a thread next, how fast one may talk, and what HTTP requests are let through."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from effvision.demos.channel import Limits
from effvision.demos.sharing import Pace, Turns
from effvision.demos.uploads import Guard, came, release
from effvision.errors import InputError
from waiting import best_of_three

# --- threads ----------------------------------------------------------------------------------------------------------------


def test_who_has_used_least_goes_first() -> None:
    """Three pieces of work wait for one thread; the newcomer's comes before those of the one that was at work."""
    order: list[str] = []

    async def all_of_them() -> None:
        turns = Turns(1)
        busy, rests, new = turns.share(), turns.share(), turns.share()
        await busy(time.sleep, 0.05)
        await rests(time.sleep, 0.005)
        gate = threading.Event()
        first = asyncio.create_task(busy(gate.wait))
        await asyncio.sleep(0.01)
        waiting = [
            asyncio.create_task(share(order.append, name))
            for share, name in ((busy, "busy"), (rests, "rests"), (new, "new"))
        ]
        await asyncio.sleep(0.01)
        assert not order
        gate.set()
        await asyncio.gather(first, *waiting)

    asyncio.run(all_of_them())
    assert order == ["new", "rests", "busy"]


def test_what_was_used_long_ago_counts_less() -> None:
    async def used() -> tuple[float, float]:
        share = Turns(1).share()
        await share(time.sleep, 0.05)
        now = time.monotonic()
        return share.used(now), share.used(now + 60)

    now, later = asyncio.run(used())
    assert now >= 0.04 and later < 1e-6


def test_no_more_threads_work_than_there_are_and_none_is_lost() -> None:
    """Also when some give up while they wait, or fail."""
    inside, most, lock = 0, 0, threading.Lock()

    def work(fails: bool) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.002)
        with lock:
            inside -= 1
        if fails:
            raise ZeroDivisionError

    async def crowd() -> int:
        turns = Turns(2)
        shares = [turns.share() for _ in range(8)]
        tasks = [asyncio.create_task(shares[n % 8](work, n % 5 == 0)) for n in range(80)]
        await asyncio.sleep(0.01)
        for task in tasks[3::7]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return turns._free

    assert asyncio.run(asyncio.wait_for(crowd(), 60)) == 2
    assert most == 2 and inside == 0


def test_a_talker_is_slowed_and_others_go_on_meanwhile() -> None:
    async def talk() -> tuple[float, int]:
        pace, others = Pace(100.0, 1e9), 0

        async def other() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        began = time.monotonic()
        for _ in range(230):  # 200 at once, then 100 a second
            await pace.take(1)
        took = time.monotonic() - began
        task.cancel()
        return took, others

    took, others = asyncio.run(talk())
    assert took >= 0.25 and others >= 230


def test_bytes_count_too_and_a_rest_helps() -> None:
    async def talk() -> list[float]:
        pace, took = Pace(1e9, 1000.0), []
        for size, rest in ((2000, 0.0), (100, 0.2), (100, 0.0)):
            await asyncio.sleep(rest)
            began = time.monotonic()
            await pace.take(size)
            took.append(time.monotonic() - began)
        return took

    def measure() -> None:
        first, rested, again = asyncio.run(talk())
        assert first < 0.05 and rested < 0.05 and again < 0.2

    best_of_three(measure)


def test_one_who_is_too_fast_for_long_is_told_to_leave() -> None:
    async def talk(rest_s: float) -> int:
        pace, said = Pace(100.0, 1e9, patience_s=0.1), 0
        for said in range(300):
            await pace.take(1)
            await asyncio.sleep(rest_s if said > 200 else 0)
        return said

    with pytest.raises(InputError, match="100 messages"):
        asyncio.run(talk(0.0))
    assert asyncio.run(talk(0.011)) == 299


@pytest.mark.alone
def test_nobody_takes_more_than_twice_a_part_while_others_are_there() -> None:
    """One has used two threads for a third of a second: too much among twenty, and nothing to wait for alone."""

    async def waited(others: int) -> float:
        turns = Turns(2)
        one, crowd = turns.share(), [turns.share() for _ in range(others)]
        began = time.monotonic()
        for share in (one, *crowd):
            share.last = began
        one._used_s, one._counted = 0.66, began  # a twentieth of two threads for three seconds, twice: 0.6
        await one(time.sleep, 0)
        return time.monotonic() - began

    def measure() -> None:
        assert asyncio.run(waited(19)) >= 0.25 > asyncio.run(waited(0))

    best_of_three(measure)


def test_one_who_gives_up_in_the_moment_a_turn_is_free_is_passed_over() -> None:
    """Cancelled, and passed over before it has heard of it; what it raises stays a cancellation."""

    async def gives_up() -> tuple[BaseException, int]:
        turns = Turns(1)
        await turns._enter(turns.share())
        waits = asyncio.create_task(turns._enter(turns.share()))
        await asyncio.sleep(0)
        waits.cancel()
        turns._leave()
        (said,) = await asyncio.gather(waits, return_exceptions=True)
        assert isinstance(said, BaseException)
        return said, turns._free

    said, free = asyncio.run(gives_up())
    assert isinstance(said, asyncio.CancelledError) and free == 1


# --- requests -----------------------------------------------------------------------------------------------------------------


class Request:
    """One HTTP request to a guarded app, in pieces; `said` is what the client heard."""

    def __init__(self, path: str, pieces: list[bytes], *, length: int | None = None, method: str = "POST") -> None:
        headers = [] if length is None else [(b"content-length", str(length).encode())]
        self.scope = {"type": "http", "method": method, "path": path, "headers": headers}
        self.pieces, self.said, self.read = list(pieces), [], 0  # type: ignore[var-annotated]

    async def receive(self) -> dict[str, Any]:
        if not self.pieces:
            await asyncio.Event().wait()  # nothing more comes, and nobody hangs up
        piece = self.pieces.pop(0)
        self.read += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}

    async def send(self, message: dict[str, Any]) -> None:
        self.said.append(message)

    @property
    def status(self) -> int:
        return int(self.said[0]["status"])


def inner(answer: Any = ()) -> Callable[..., Awaitable[None]]:
    """An app that reads all, then answers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = scope["method"] == "POST"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    return app


LIMITS = Limits(upload_bytes=3 * 2**20, message_bytes=1000, stored_bytes=10 * 2**20, upload_s=0.2)
MEGABYTE = bytes(2**20)


@pytest.mark.parametrize(
    ("request_", "status", "read"),
    [
        (Request("/gradio_api/upload", [MEGABYTE] * 3, length=3 * 2**20), 200, 3),
        (Request("/gradio_api/upload", [MEGABYTE] * 9, length=9 * 2**20), 413, 0),  # it says so: nothing is read
        (Request("/gradio_api/upload", [MEGABYTE] * 9), 413, 5),  # it does not
        (Request("/gradio_api/upload", [MEGABYTE] * 9, length=100), 413, 5),  # it lies
        (Request("/gradio_api/upload/", [MEGABYTE] * 9), 413, 5),
        (Request("/gradio_api/queue/join", [b"{}"], length=2), 200, 0),
        (Request("/gradio_api/queue/join", [MEGABYTE] * 3), 413, 2),
        (Request("/", [], method="GET"), 200, 0),
    ],
)
def test_a_request_has_a_size(tmp_path: Path, request_: Request, status: int, read: int) -> None:
    asyncio.run(Guard(inner(), LIMITS, tmp_path)(request_.scope, request_.receive, request_.send))
    assert request_.status == status and request_.read // 2**20 == read


FOREIGN = b'{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}'


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/gradio_api/call/label_clip", b'{"data": [%s]}' % FOREIGN, 400),
        ("/gradio_api/run/upload", b'{"fn_index": 1, "data": [%s]}' % FOREIGN, 400),  # Gradio takes any name there
        ("/gradio_api/queue/join", b'{"x": %s, "data": [%s]}' % (b"[" * 700 + b"]" * 700, FOREIGN), 400),
        ("/gradio_api/queue/join", b'{"data": [{"meta": null}]}', 200),
        ("/gradio_api/reset", b"no JSON", 200),
        ("/gradio_api/process_recording", b"a film for ffmpeg", 404),
    ],
)
def test_files_that_a_request_names_are_looked_at_however_it_is_sent(
    tmp_path: Path, path: str, body: bytes, status: int
) -> None:
    request = Request(path, [body])
    asyncio.run(Guard(inner(), Limits(), tmp_path)(request.scope, request.receive, request.send))
    assert request.status == status


def test_an_upload_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    class Slow(Request):
        async def receive(self) -> dict[str, Any]:
            if not self.pieces[1:]:
                await asyncio.sleep(60)
            return await super().receive()

    slow = Slow("/gradio_api/upload", [b"x"] * 5)
    asyncio.run(Guard(inner(), LIMITS, tmp_path)(slow.scope, slow.receive, slow.send))
    assert slow.status == 408


def test_uploads_stop_where_the_room_for_them_ends(tmp_path: Path) -> None:
    """8 MB lie there: the largest file, 3 MB, would go beyond 10."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(bytes(8 * 2**20))
    request = Request("/gradio_api/upload", [b"x"])
    asyncio.run(Guard(inner(), LIMITS, tmp_path)(request.scope, request.receive, request.send))
    assert request.status == 507 and "no room" in request.said[1]["body"].decode()


def test_those_that_are_being_sent_count_as_if_they_were_there(tmp_path: Path) -> None:
    async def four() -> list[int]:
        guard = Guard(inner(), Limits(upload_bytes=3 * 2**20, stored_bytes=10 * 2**20, upload_s=0.5), tmp_path)
        requests = [Request("/gradio_api/upload", [b"x"]) for _ in range(4)]
        for request in requests:
            request.pieces.append(b"")  # whose end never comes
            request.scope["hold"] = True

        async def held(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.2)
            await inner()(scope, receive, send)

        guard._inner = held
        await asyncio.gather(*(guard(one.scope, one.receive, one.send) for one in requests))
        return sorted(one.status for one in requests)

    assert asyncio.run(four()) == [200, 200, 200, 507]


def test_a_file_that_two_have_sent_stays_until_both_let_go(tmp_path: Path) -> None:
    """Gradio names a file after its content and its name."""
    path = tmp_path / "hash" / "clip.mp4"
    path.parent.mkdir()
    path.write_bytes(b"x")
    guard = Guard(inner([str(path)]), LIMITS, tmp_path)
    for _ in range(2):
        request = Request("/gradio_api/upload", [b"x"])
        asyncio.run(guard(request.scope, request.receive, request.send))
    release(path)
    assert path.is_file()
    release(path)
    assert not path.parent.exists()
    release(path)  # nothing is there any more
    came(path)
    release(path)
