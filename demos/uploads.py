"""What comes in by HTTP: how large a request may be, how long it may take, how much may lie here, and who needs a file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvision.errors import EffvisionError

if TYPE_CHECKING:
    from effvision.demos.channel import Limits

__all__ = ["Guard", "came", "forget", "release"]

_AROUND = 2**20  # of a request, besides the file in it
_UPLOAD = "/gradio_api/upload"  # no other path that ends so: Gradio's `/run/{name}` takes any name
_claims: Counter[str] = Counter()
_CLOSED = (
    "/gradio_api/process_recording",
)  # runs ffmpeg on what anybody sends, beside all turns; no page here needs it


def came(path: Path | str) -> None:
    """Count an upload. Gradio names a file after its content: what two visitors send alike is one file."""
    _claims[os.path.realpath(path)] += 1


def release(path: Path | str) -> None:
    """Count one down; with the last one remove the file, and the folder Gradio made for it."""
    place = os.path.realpath(path)
    _claims[place] -= 1
    if _claims[place] > 0:
        return
    del _claims[place]
    with contextlib.suppress(OSError):
        os.unlink(place)
        os.rmdir(os.path.dirname(place))


def forget(path: Path | str) -> None:
    """Count no uploads of a file any more that nobody let go of and that is gone; may be called from any thread."""
    _claims.pop(os.path.realpath(path), None)


class _Refused(EffvisionError):
    """The request is read no further."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Guard:
    """An ASGI app in front of Gradio's: keeps its requests within the limits, whatever the page or program that sends them.

    Args:
        inner: The app.
        limits: What visitors may take.
        uploads: Folder that uploaded files come to lie in.
    """

    def __init__(self, inner: Callable[..., Any], limits: Limits, uploads: Path) -> None:
        self._inner, self._limits, self._uploads = inner, limits, uploads
        self._under_way = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand a request on, or refuse it: 413 too large, 408 too slow, 507 no room, 400 a file from elsewhere, 404 closed."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return await self._inner(scope, receive, send)  # type: ignore[no-any-return]
        upload = scope["path"].rstrip("/") == _UPLOAD
        started = False

        async def sending(message: Any) -> None:
            nonlocal started
            started = True
            if upload:
                _note(message)
            await send(message)

        try:
            await self._hand_on(scope, receive, sending, upload)
        except _Refused as refused:
            if not started:
                await _answer(send, refused)

    async def _hand_on(self, scope: Any, receive: Any, send: Any, upload: bool) -> None:
        if scope["path"].rstrip("/") in _CLOSED:
            raise _Refused(404, "There is nothing here.")
        most = (self._limits.upload_bytes if upload else self._limits.message_bytes) + _AROUND
        too_large = _Refused(413, f"A request here has at most {most:,} bytes.")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            raise too_large
        refused: list[_Refused] = []
        came_in = 0

        async def receiving() -> Any:
            nonlocal came_in
            message = await receive()
            came_in += len(message.get("body", b""))
            if came_in > most:  # it did not say how long it is
                refused.append(too_large)
                return {"type": "http.disconnect"}
            return message

        if not upload:
            await self._inner(scope, await self._checked(receiving), send)
        else:
            await self._check_room()
            self._under_way += 1
            try:
                await asyncio.wait_for(self._inner(scope, receiving, send), self._limits.upload_s)
            except asyncio.TimeoutError:
                raise _Refused(408, f"Sending a file may take {self._limits.upload_s:g} s here.") from None
            finally:
                self._under_way -= 1
        if refused:
            raise refused[0]

    async def _checked(self, receive: Callable[..., Any]) -> Callable[..., Any]:
        """Read a request that is no upload and look at the files it names, before Gradio copies or fetches them.

        Gradio checks this itself only in apps it has launched, and this one is mounted.
        """
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        try:
            said = json.loads(b"".join(message.get("body", b"") for message in messages))
            fine = _only_in(said, self._uploads)
        except ValueError:  # no JSON: nothing Gradio takes files from
            fine = True
        except RecursionError:  # what was not looked at to its end may name anything
            raise _Refused(400, "A request may not be nested so deeply.") from None
        if not fine:
            raise _Refused(400, "Only a file that was uploaded here can be used.")

        async def again() -> Any:
            return messages.pop(0) if messages else await receive()

        return again

    async def _check_room(self) -> None:
        """Make sure that the largest file still fits, beside those that others are sending."""
        there = await asyncio.to_thread(_bytes_in, self._uploads)
        if there + (self._under_way + 1) * self._limits.upload_bytes > self._limits.stored_bytes:
            raise _Refused(507, "There is no room for more files here at the moment; try again in a few minutes.")


def _only_in(data: Any, folder: Path) -> bool:
    """Whether all files that JSON names lie in this folder."""
    if isinstance(data, dict):
        path, meta = data.get("path"), data.get("meta")
        if isinstance(path, str) or (isinstance(meta, dict) and "_type" in meta):
            try:
                here = Path(os.path.realpath(str(path))).is_relative_to(os.path.realpath(folder))
            except (ValueError, OSError):
                here = False
            if not here:
                return False
        return all(_only_in(value, folder) for value in data.values())
    return all(_only_in(value, folder) for value in data) if isinstance(data, list) else True


def _bytes_in(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # gone meanwhile
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _note(message: Any) -> None:
    """Count the files whose places Gradio answers an upload with."""
    if message["type"] != "http.response.body":
        return
    try:
        paths = json.loads(message.get("body", b""))
    except ValueError:  # a refusal
        return
    for path in paths if isinstance(paths, list) else ():
        came(str(path))


async def _answer(send: Any, refused: _Refused) -> None:
    text = str(refused).encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
