"""Start the page: one Gradio app with a tab a family, and the routes each tab talks to."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import shutil
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from effvision._optional import require
from effvision.cards import Card, default_card, get_card
from effvision.demos import editing, gestures, points, tracking
from effvision.demos.channel import Limits
from effvision.demos.places import Visitors
from effvision.demos.service import Service
from effvision.demos.tabs import Tab
from effvision.demos.uploads import Guard, forget
from effvision.errors import CardError, EffvisionError, InputError, SourceError
from effvision.loading import installed_runtimes

__all__ = ["Server", "make_app", "remove_old"]

_TABS = {
    gestures.FAMILY: gestures.NAME,
    tracking.FAMILY: tracking.NAME,
    **dict.fromkeys(points.FAMILIES, points.NAME),
    editing.FAMILY: editing.NAME,
}
_TIDY_S = 60.0
# of a file nobody plays: its page was closed while it was sent, or a call waits behind others, or fetches it from here
_UPLOAD_KEPT_S = 1800.0
_CONNECTIONS = 800  # of all kinds; a process may often have a thousand files open

_CSS = ".about {font-size: 0.9rem; line-height: 1.5; max-width: 62rem} .about p {margin: 0.4rem 0}"


class Server:
    """The page, served in a thread of its own until `close`.

    Args:
        card: Its family's tab is opened first, with this card chosen in it; the other tabs have their own.
        host: Address to listen at; "0.0.0.0" for the whole network.
        port: 0 takes a free one.
        runtimes: "onnx", "torch"; default: those that are installed.
        limits: What visitors may take.
        certificate: Files (certificate, key) in PEM, for https: without it a browser gives a page from another machine no
            camera.

    Raises:
        CardError: there is no such card, or it belongs to no tab.
        StreamingError: its network needs whole clips.
        DownloadError: its weights are not here and cannot be fetched.
        MissingDependencyError: Gradio or a runtime is not installed.
        SourceError: the port is taken, or a certificate's file is missing or damaged.
    """

    def __init__(
        self,
        card: str = gestures.DEFAULT,
        *,
        host: str = "127.0.0.1",
        port: int = 7860,
        runtimes: Sequence[str] | None = None,
        limits: Limits | None = None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        _check_certificate(certificate)
        first = get_card(card)
        if first.family not in _TABS:
            there = ", ".join(_TABS)
            raise CardError(f"the page has no tab for the family {first.family} of {card!r}; it has tabs for {there}")
        if first.family == gestures.FAMILY:
            gestures.check(first)
        # ONNX Runtime first: it starts faster
        chosen = tuple(sorted(installed_runtimes())) if runtimes is None else tuple(runtimes)
        _keep_quiet()
        self.limits = limits or Limits()
        self._socket = _listen(host, port)
        self._folder = Path(tempfile.mkdtemp(prefix="effvision-demo-"))
        self._uploads = self._folder / "uploads"
        self._gradio = contextlib.ExitStack()
        try:
            self.tabs, service = self._build(first, chosen)
            opened = next(tab for tab in self.tabs if tab.name == _TABS[first.family])
            opened.load()  # what cannot work is said now, not to the first visitor
            self._gradio.enter_context(_gradio_writes_to(self._uploads))
            require("gradio", extra="demo")
            app = make_app(self.tabs, opened.name, self.limits, uploads=self._uploads, service=service)
            uvicorn = require("uvicorn", extra="demo")
            config = uvicorn.Config(
                app,
                log_level="warning",
                ws_max_size=self.limits.message_bytes,
                ws_per_message_deflate=False,  # JPEG does not get smaller
                ws_ping_interval=self.limits.ping_s,  # whoever vanished without a word is found out
                ws_ping_timeout=self.limits.ping_s,
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=2,
                **({"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]} if certificate else {}),
            )
            self._server = uvicorn.Server(config)
        except BaseException:
            self._socket.close()
            self._gradio.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        shown = "localhost" if host in ("", "127.0.0.1", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://{shown}:{self._socket.getsockname()[1]}/"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._chores = threading.Thread(target=self._do_chores, daemon=True)

    def _build(self, first: Card, runtimes: tuple[str, ...]) -> tuple[tuple[Tab, ...], Service]:
        """Make the tabs, that of the first card with this card, the others with their own, and what programs may call."""

        def card(family: str) -> Card:
            return first if first.family == family else default_card(family)

        moving = first if first.family == gestures.FAMILY else get_card(gestures.DEFAULT)
        cloudy = first if first.family in points.FAMILIES else None
        folder, uploads = self._folder, self._uploads
        moves = gestures.GesturesTab(moving, runtimes, Visitors(self.limits), folder, uploads)
        tracks = tracking.TrackingTab(card(tracking.FAMILY), runtimes, Visitors(self.limits), folder, uploads)
        edits = editing.EditingTab(card(editing.FAMILY), runtimes, Visitors(self.limits), uploads)
        # each tab has threads of its own: strangers' detectors may hold all threads of theirs
        live = moves.visitors.turns, tracks.visitors.turns, edits.visitors.turns
        clouds = points.PointsTab(cloudy, runtimes, self.limits, folder / "clouds", live)
        of_clips, of_tracks = (moves.visitors, moves.models), (tracks.visitors, tracks.models)
        service = Service(of_clips, of_tracks, clouds, self.limits, uploads)
        return (moves, tracks, clouds, edits), service

    def start(self) -> Server:
        """Begin to serve; returns when the page answers.

        Raises:
            EffvisionError: the server ended while it started; the log says why.
        """
        try:
            self._thread.start()
            while not self._server.started:
                if not self._thread.is_alive():
                    raise EffvisionError("the page's server ended while it started; see the messages above")
                time.sleep(0.02)
            self._chores.start()
        except BaseException:
            self.close()
            raise
        return self

    def _do_chores(self) -> None:
        for tab in self.tabs:  # while the first visitor looks around
            tab.prepare()
        while not self._closing.wait(_TIDY_S):
            held = {path for tab in self.tabs for path in tab.visitors.held()}
            remove_old(self._uploads, older_than_s=_UPLOAD_KEPT_S, but=held)

    def wait(self) -> None:
        """Serve until Ctrl-C, or until the process is asked to end."""
        with contextlib.suppress(KeyboardInterrupt), _signals_interrupt():
            while self._thread.is_alive():
                self._thread.join(0.5)

    def close(self) -> None:
        """Stop serving and remove what was uploaded."""
        self._closing.set()
        self._server.should_exit = True
        for thread in (self._thread, self._chores):
            if thread.ident is not None:
                thread.join(10)
        self._socket.close()
        self._gradio.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_app(tabs: Sequence[Tab], opened: str, limits: Limits, *, uploads: Path, service: Service | None = None) -> Any:
    """Return the ASGI app: the routes of each tab, a status page, and Gradio's page over everything else.

    Args:
        tabs: In their order.
        opened: Name of the tab that is seen first.
        limits: What visitors may take.
        uploads: Folder of uploaded files.
        service: What programs may call besides.
    """
    _keep_quiet()
    gr = require("gradio", extra="demo")
    require("websockets", extra="demo")  # uvicorn carries WebSockets with it
    from fastapi import FastAPI
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks its own server whether it is up
    uploads.mkdir(parents=True, exist_ok=True)

    async def status(request: Any) -> Any:
        now = {tab.name: len(tab.visitors.now) for tab in tabs}
        seen = sum(tab.visitors.seen for tab in tabs)
        return JSONResponse({"visitors": sum(now.values()), "seen": seen, "tabs": now})

    routes = [Route("/effvision/status", status), *(route for tab in tabs for route in tab.routes())]
    app = FastAPI(routes=routes, docs_url=None, redoc_url=None, openapi_url=None)
    mounted = gr.mount_gradio_app(
        app,
        page(tabs, opened, service),
        path="/",
        theme=_theme(),
        css=_CSS,
        max_file_size=limits.upload_bytes,
        show_error=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )

    guarded = Guard(mounted, limits, uploads)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(ClientDisconnect):  # a page closed while it sends a file is no failure of the server
            await guarded(scope, receive, send)

    return answer


def _theme() -> Any:
    import gradio as gr

    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    # white text on the theme's own shade has a contrast below 4.5
    return theme.set(button_primary_background_fill="*primary_600", button_primary_background_fill_dark="*primary_600")


def page(tabs: Sequence[Tab], opened: str, service: Service | None = None) -> Any:
    """Build the page: one tab a family, and what programs may call."""
    import gradio as gr

    with gr.Blocks(title="effvision", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            "<h1>effvision</h1><p>Live models that keep what they know. All runs on the machine that serves this page.</p>"
        )
        with gr.Tabs(selected=opened):
            for tab in tabs:
                with gr.Tab(tab.title, id=tab.name):
                    tab.build()
        if service is not None:
            service.build()
    _keep_apart(blocks)
    if service is not None:
        service.queue(blocks)
    return blocks


def _keep_apart(blocks: Any) -> None:
    """Keep the app out of the description that each page gets of it.

    Where a page's script holds the name of an argument of `gr.HTML`, such as "every", in quotes, Gradio takes it for an event
    of the script's own, and describes the argument by a function bound to the component, and so to the whole app, which it
    would then copy for every page that is opened.
    """
    import gradio as gr

    for block in blocks.blocks.values():
        if isinstance(block, gr.HTML):
            for name in inspect.signature(gr.HTML.__init__).parameters:
                if name not in vars(block) and callable(getattr(block, name, None)):
                    setattr(block, name, None)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"`port` must be 0 to 65535; got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise SourceError(
            f"cannot listen at {host}:{port}: {error.strerror or error}\nhint: --port 0 takes a free port"
        ) from error
    return listening


def _keep_quiet() -> None:
    """Switch telemetry off in the libraries; they look when they are imported, so this comes first."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # only the exact text "True" means on
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def _check_certificate(certificate: tuple[Path, Path] | None) -> None:
    for file in certificate or ():
        if not file.is_file():
            raise SourceError(f"the certificate file {file} does not exist\nhint: give certificate and key, both PEM")
    if certificate:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*certificate)
        except (OSError, ValueError) as error:
            raise SourceError(
                f"{certificate[0]} and {certificate[1]} are no certificate and its key: {error}\nhint: both must be PEM"
            ) from error


@contextlib.contextmanager
def _gradio_writes_to(folder: Path) -> Iterator[None]:
    """Let Gradio keep its files there; it asks the environment, when an app is made and later too."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Make a request to end, or a terminal that closes, do what Ctrl-C does, so that no files are left."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup's choice is kept
                before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def remove_old(folder: Path, *, older_than_s: float, but: set[Path]) -> None:
    """Remove the files in this folder that nobody has written to for so long, and the folders that become empty."""
    kept = {os.path.realpath(path) for path in but}
    for place, folders, files in os.walk(folder, topdown=False):  # what is inside first
        for name in files + folders:
            path = os.path.join(place, name)
            with contextlib.suppress(OSError):  # gone meanwhile, or not empty
                if time.time() - os.lstat(path).st_mtime < older_than_s or os.path.realpath(path) in kept:
                    continue
                (os.rmdir if name in folders else os.unlink)(path)
                forget(path)  # it was sent, and nobody came for it
