"""The page for programs: calls that `gradio_client` makes, with the same models, limits and shares as the page's visitors.

    from gradio_client import Client, handle_file

    client = Client("http://localhost:7860/")
    client.predict(api_name="/models")
    client.predict(handle_file("clip.mp4"), api_name="/label_clip")
    client.predict(handle_file("clip.mp4"), [[79, 58, 131, 126]], api_name="/follow_objects")
    answer, labelled = client.predict(handle_file("scan.ply"), api_name="/label_points")

The names and what is returned stay as they are; more may be added to an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from effvision.demos.channel import Limits, Models
from effvision.demos.labelling import Job, check_name
from effvision.demos.places import Visitors
from effvision.demos.points import PointsTab
from effvision.demos.sharing import Share
from effvision.demos.uploads import release
from effvision.errors import EffvisionError, InputError
from effvision.results import Result
from effvision.sources import open_source
from effvision.sources.sniff import looks_like_image

__all__ = ["NAMES", "Service"]

NAMES = ("models", "label_clip", "follow_objects", "label_points")
_TOGETHER = 4  # calls at a time; more wait
_WAITING = 32  # more are refused


class _Caller:
    """One call, as a guest of the tab whose model it uses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = {path}

    async def run(self) -> None:
        """Nothing: the call itself is what runs."""


class Service:
    """What programs may call. All calls of one kind together have the part of one visitor in the machine's time.

    Args:
        clips: Visitors and models of the tab that names motions.
        tracks: Of the one that follows objects.
        points: The tab of clouds.
        limits: What a call may take.
        uploads: Folder of uploaded files; a path outside is refused.
    """

    def __init__(
        self,
        clips: tuple[Visitors, Models],
        tracks: tuple[Visitors, Models],
        points: PointsTab,
        limits: Limits,
        uploads: Path,
    ) -> None:
        self._clips, self._tracks, self._points = clips, tracks, points
        self._limits, self._uploads = limits, uploads
        self._shares = {id(visitors): visitors.turns.share() for visitors in (clips[0], tracks[0])}

    def build(self) -> None:
        """Add the calls to the open `gradio.Blocks`."""
        import gradio as gr
        from gradio.events import api

        def told(error: EffvisionError, path: Path | None = None) -> gr.Error:
            text = str(error) if path is None else str(error).replace(str(path), path.name)
            return gr.Error(text, print_exception=False)

        async def models() -> dict[str, Any]:
            return self._models()

        async def label_clip(clip: dict[str, Any]) -> dict[str, Any]:
            try:
                async with self._taken(clip, self._clips[0]) as caller:
                    return await self._label_clip(caller.path)
            except EffvisionError as error:
                raise told(error) from error

        async def follow_objects(clip: dict[str, Any], boxes: list[list[float]]) -> dict[str, Any]:
            try:
                async with self._taken(clip, self._tracks[0]) as caller:
                    return await self._follow(caller.path, boxes)
            except EffvisionError as error:
                raise told(error) from error

        async def label_points(cloud: dict[str, Any], card: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
            try:
                async with self._taken(cloud, self._points.visitors) as caller:
                    said, target = await self._label_points(caller, card)
            except EffvisionError as error:
                raise told(error) from error
            file = {"path": str(target), "orig_name": target.name, "meta": {"_type": "gradio.FileData"}}
            return said, file

        for call, text in (
            (models, "What answers here: cards, labels, limits."),
            (label_clip, "A video -> the motion in it, step by step."),
            (
                follow_objects,
                "A video, boxes x1 y1 x2 y2 in its first frame -> where those objects are in every frame.",
            ),
            (
                label_points,
                "A file of points, the name of a card ('' for the first) -> counts, and the labelled cloud.",
            ),
        ):
            group = "clouds" if call is label_points else "calls"
            api(
                call,
                api_name=call.__name__,
                api_description=text,
                concurrency_limit=_TOGETHER,
                concurrency_id=group,
            )

    def queue(self, blocks: Any) -> None:
        """Set how many calls may wait; every call does, for `api_open` would let those of `/run/NAME` pass by."""
        blocks.queue(max_size=_WAITING, api_open=False)

    # -- the calls -------------------------------------------------------------------------------------------------------------

    def _models(self) -> dict[str, Any]:
        limits = self._limits
        return {
            "label_clip": {"card": self._clips[1].card, "labels": list(self._first(self._clips).labels)},
            "follow_objects": {"card": self._tracks[1].card, "objects": limits.objects},
            "label_points": {"cards": self._points.labels()},
            "limits": {
                "upload_bytes": limits.upload_bytes,
                "file_s": limits.file_s,
                "points": limits.points,
                "seconds": limits.labelling_s,
            },
        }

    async def _label_clip(self, path: Path) -> dict[str, Any]:
        share = self._shares[id(self._clips[0])]
        model = await asyncio.to_thread(self._first, self._clips)  # loading must not stop others' frames
        session = model.session()
        answers, seen = [], 0
        whole = True
        async for result in self._played(path, session.update, share):
            if result is None:
                whole = False
                break
            seen += 1
            if result.fresh and result.settled:
                said = {
                    "at_s": round(result.timestamp, 3),
                    "label": result.label,
                    "score": round(float(result.score), 4),
                }
                answers.append(said)
        return {"card": self._clips[1].card, "frames": seen, "whole": whole, "answers": answers}

    async def _follow(self, path: Path, boxes: Any) -> dict[str, Any]:
        if not isinstance(boxes, list) or not 1 <= len(boxes) <= self._limits.objects:
            raise InputError(
                f"`boxes` is a list of 1 to {self._limits.objects} boxes x1 y1 x2 y2; got {str(boxes)[:60]!r}"
            )
        share = self._shares[id(self._tracks[0])]
        model = await asyncio.to_thread(self._first, self._tracks)
        session = model.session()
        frames, whole = [], True
        given: dict[str, Any] = {"boxes": boxes}

        def update(image: Any, **of_frame: Any) -> Result:
            nonlocal given
            result, given = session.update(image, **of_frame, **given), {}
            return result  # type: ignore[no-any-return]

        async for result in self._played(path, update, share):
            if result is None:
                whole = False
                break
            frames.append({"at_s": round(result.timestamp, 3), "objects": result.to_dict()["objects"]})
        return {"card": self._tracks[1].card, "frames": frames, "whole": whole}

    async def _played(self, path: Path, update: Callable[..., Any], share: Share) -> AsyncIterator[Any]:
        """Yield the result of every frame; None where a limit ends it. Others' frames come in between."""
        began = time.monotonic()
        if looks_like_image(path):  # a picture of a few kilobytes may fill the memory
            raise InputError(f"{path.name} is a picture, which shows no motion; send a video")
        try:
            with await share(open_source, path) as source:
                frames = iter(source)

                def step() -> Any:
                    if (frame := next(frames, None)) is None:
                        return False
                    if frame.timestamp > self._limits.file_s:
                        return None
                    return update(frame.image, timestamp=frame.timestamp, source=frame.source)

                while (result := await share(step)) is not False:
                    late = time.monotonic() - began > self._limits.labelling_s
                    yield None if late else result
        except EffvisionError as error:
            raise type(error)(str(error).replace(str(path), path.name)) from error

    async def _label_points(self, caller: _Caller, card: str) -> tuple[dict[str, Any], Path]:
        """Label a file of points; the labelled one lies in a folder of its own until it is old."""
        path = caller.path
        name, card, there = check_name(path.name), card or self._points.first, self._points.labels()
        if card not in there:
            raise InputError(f"there is no model {card[:60]!r} here; there are: {', '.join(there)}")
        place = self._uploads / secrets.token_hex(16)
        caller.files.add(place)  # an empty folder would not outlive a long wait for its turn
        place.mkdir()
        target = place / f"{Path(name).stem}-labelled.ply"
        models = self._points.models[card]
        breathe = self._points.desk.breathe
        job = Job(models, models.runtimes[0], path, name, target, self._limits, breathe=breathe)

        async def nothing(_: int) -> None: ...

        try:
            async with self._points.desk.turn(nothing):
                work = asyncio.get_running_loop().run_in_executor(self._points.desk.thread, job.run)
                try:
                    said, _ = await asyncio.shield(work)
                except asyncio.CancelledError:
                    job.stop()
                    await asyncio.gather(work, return_exceptions=True)
                    raise
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        counts = dict(zip(there[card], said["counts"], strict=True))
        return {"card": card, "points": said["points"], "counts": counts, "times_ms": said["times"]}, target

    # -- files and models ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _first(of: tuple[Visitors, Models]) -> Any:
        return of[1].get(of[1].runtimes[0])

    @contextlib.asynccontextmanager
    async def _taken(self, file: Any, visitors: Visitors) -> AsyncIterator[_Caller]:
        """Take a place and the file that came with the call; give both back."""
        path = self._uploaded(file)
        try:
            if visitors.full:
                raise InputError(f"All {visitors.limits.visitors} places are taken; try again in a minute.")
            caller = _Caller(path)
            visitors.enter(caller)
            try:
                yield caller
            finally:
                visitors.now.discard(caller)
        finally:
            release(path)

    def _uploaded(self, file: Any) -> Path:
        try:
            path = Path(os.path.realpath(str(file["path"])))
            here = path.is_relative_to(os.path.realpath(self._uploads)) and path.is_file()
        except (
            TypeError,
            KeyError,
            ValueError,
            OSError,
        ):  # no file, a NUL or half a character in its name, a name too long
            here = False
        if not here:
            raise InputError("a file that was uploaded here is needed\nhint: gradio_client.handle_file('clip.mp4')")
        return path
