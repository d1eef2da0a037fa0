"""Weights files: found in the package or the cache, fetched where the card gives an address, read without running code."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvision._files import as_path, sha256
from effvision.cards import Card, toml_table
from effvision.errors import CheckpointError, DownloadError

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: two processes that fetch at once are not kept apart there
    fcntl = None  # type: ignore[assignment]
_CAN_LOCK: bool = fcntl is not None

__all__ = [
    "bundled",
    "cache_folder",
    "checkpoint_tensors",
    "download",
    "find_weights",
    "read_checkpoint",
    "weights_index",
]

_REACH_TIMEOUT_S = 0.7
_READ_TIMEOUT_S = 20.0


def cache_folder() -> Path:
    """Folder of downloaded weights and of files exported once: `EFFVISION_CACHE`, or `effvision` in the user's cache."""
    if chosen := os.environ.get("EFFVISION_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "effvision"


def bundled(name: str) -> Path | None:
    """Path of a weights file that is part of the package, or None."""
    path = Path(str(resources.files("effvision.weights").joinpath(name)))
    return path if path.is_file() else None


def weights_index() -> Mapping[str, Mapping[str, Any]]:
    """Return what the package says of its bundled files, by file name: SHA-256, bytes, licence, origin."""
    table = resources.files("effvision.weights").joinpath("index.toml")
    return toml_table(table.read_text(encoding="utf-8")) if table.is_file() else {}


def find_weights(card: Card, *, progress: bool = False) -> Path:
    """Return the path of a card's weights: in the package, in the cache folder, or fetched into it.

    Args:
        card: The card.
        progress: Show a progress bar while fetching.

    Raises:
        DownloadError: the file is nowhere and cannot be fetched; says in under a second what to download and where to put it.
        CheckpointError: the file found does not have the card's SHA-256.
    """
    if card.bundled:
        path = bundled(card.weights)
        if path is None:
            raise DownloadError(
                f"the bundled weights {card.weights} of {card.name} are missing from this installation\n"
                "hint: pip install --force-reinstall effvision"
            )
        return path
    target = cache_folder() / card.weights
    if not target.is_file():
        download(card, target, progress=progress)
    if card.sha256 and sha256(target) != card.sha256:
        raise CheckpointError(
            f"{target} is not the file of {card.name}: its SHA-256 is not {card.sha256}\nhint: delete it and fetch it again"
        )
    return target


def download(card: Card, target: Path, *, progress: bool = False) -> None:
    """Fetch a card's file to `target`, resuming a partial one; it appears under its name only when whole.

    Raises:
        DownloadError: no address answers (said in under a second), the transfer broke, or EFFVISION_OFFLINE is set.
    """
    by_hand = (
        f"hint: download {card.urls[0] if card.urls else 'the file'} on another machine and put it at {target} "
        f"(exactly this name{f', SHA-256 {card.sha256}' if card.sha256 else ''}), "
        f"or call from_pretrained(PATH, card={card.name!r})"
    )
    if os.environ.get("EFFVISION_OFFLINE", "") not in ("", "0"):
        raise DownloadError(f"the weights of {card.name} are not here and EFFVISION_OFFLINE is set\n{by_hand}")
    reasons = []
    until = time.monotonic() + _REACH_TIMEOUT_S  # for all addresses together
    for url in card.urls:
        reason = _unreachable(url, max(0.05, until - time.monotonic()))
        if reason is None:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with _alone(target):
                    if not target.is_file():  # another process may have brought it while this one waited
                        _fetch(url, target, card.sha256, progress=progress)
                return
            except (OSError, ValueError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
        reasons.append(f"{urllib.parse.urlsplit(url).netloc}: {reason}")
    said = "; ".join(reasons) or "the card gives no address"
    raise DownloadError(f"cannot fetch the weights of {card.name} ({said})\n{by_hand}")


def _unreachable(url: str, timeout_s: float) -> str | None:
    """Say in under a second why the host does not answer, or None; a resolver without network can block for minutes."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    answer: list[str | None] = [f"no answer within {timeout_s:.1g} s"]

    def knock() -> None:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=timeout_s).close()
            answer[0] = None
        except OSError as error:
            answer[0] = error.strerror or str(error)

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answer[0]


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process at a time fetch a file; the others wait for it."""
    lock = target.with_name(f".{target.name}.lock")
    while True:
        file = open(lock, "w")  # noqa: SIM115 - closed below, after the lock was judged
        if not _CAN_LOCK:
            break
        fcntl.flock(file, fcntl.LOCK_EX)
        if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
            break
        file.close()  # whoever held it has removed it meanwhile: a lock on a removed file keeps nobody out
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        file.close()


def _fetch(url: str, target: Path, digest: str, *, progress: bool) -> None:
    from tqdm import tqdm

    partial = target.with_name(f"{target.name}.part")
    have = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=_READ_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        partial.unlink()  # what is here already is as long as the file, or longer: begin again
        return _fetch(url, target, digest, progress=progress)
    with reply:
        if have and reply.status != 206:  # the server does not resume: begin again
            have = 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            open(partial, "ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=target.name, disable=not progress) as bar,
        ):
            while block := reply.read(1 << 16):
                file.write(block)
                bar.update(len(block))
    size = partial.stat().st_size
    if total is not None and size != total:
        raise OSError(f"the transfer broke after {size} of {total} bytes; run again to resume")
    if digest and (found := sha256(partial)) != digest:
        partial.unlink()
        raise OSError(f"what came has SHA-256 {found}, not {digest}")
    os.replace(partial, target)


def read_checkpoint(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a `.safetensors`, `.pth`, `.pt` or `.pth.tar` file into names and torch tensors; nothing inside is executed.

    Raises:
        CheckpointError: no such file, damaged, not a mapping of tensors, or a pickle that asks to run code.
    """
    file = as_path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint file {file}")
    if file.suffix.lower() == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{file} is no safetensors file or is damaged: {error}\nhint: copy or download it again"
            ) from error
    import torch

    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds for damaged files
        if "Weights only load failed" in str(error):
            what = "asks to run code while loading, which is refused"
        else:
            what = "is damaged or no PyTorch checkpoint"
        raise CheckpointError(
            f"{file} {what}\nhint: save tensors only: torch.save(network.state_dict(), path)"
        ) from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{file} holds a {type(loaded).__name__}, not a mapping of names to tensors\n"
            "hint: torch.save(network.state_dict(), path)"
        )
    return loaded


def checkpoint_tensors(state_dict: Mapping[str, Any], *, level: str, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Return the tensors of a published checkpoint under a family's own names.

    Args:
        state_dict: Names to tensors (or numpy arrays), or a mapping that holds them under `level`.
        level: The name under which the family's authors keep them.
        rename: Turns a published name into the family's own.

    Raises:
        CheckpointError: an entry is no dense array of real numbers (sparse, quantised, complex, boolean, ...), is not finite,
            or two of them have one name.
    """
    import torch

    if not isinstance(state_dict, Mapping):
        raise CheckpointError(f"a checkpoint maps names to tensors; got {type(state_dict).__name__}")
    inner = state_dict.get(level, state_dict)
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"`{level}` must map names to tensors; got {type(inner).__name__}")
    tensors: dict[str, Tensor] = {}
    for key, value in inner.items():
        if not isinstance(key, str) or not (isinstance(value, torch.Tensor) or hasattr(value, "shape")):
            raise CheckpointError(f"`state_dict` must map names to tensors; `{key}` is {type(value).__name__}")
        name = rename(key)
        if name in tensors:
            raise CheckpointError(
                f"the checkpoint holds `{name}` twice, the second time as `{key}`: which one is meant?"
            )
        try:
            tensors[name] = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"`{key}` is no array of numbers ({error})") from error
        _check_kind(key, tensors[name])
    return tensors


def _check_kind(key: str, tensor: Tensor) -> None:
    """Refuse what a layer would not take, or would take as something else: masks, indices, numbers without their scale."""
    import torch

    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    dtypes += [torch.int64] if key.endswith("num_batches_tracked") else []
    if tensor.is_nested:
        kind, remedy = "a nested tensor", "save plain tensors, one under each name"
    elif tensor.layout != torch.strided:
        kind, remedy = f"of the layout {tensor.layout}", "save it dense: `tensor.to_dense()`"
    elif tensor.is_quantized:
        kind, remedy = f"quantised ({tensor.dtype})", "save it as numbers: `tensor.dequantize()`"
    elif tensor.is_meta:
        kind, remedy = "a meta tensor, which has no values", "save the network after its weights were loaded"
    elif tensor.dtype not in dtypes:
        kind, remedy = f"of {tensor.dtype}", "save the weights as real numbers: `network.float().state_dict()`"
    elif not bool(tensor.isfinite().all()):
        raise CheckpointError(f"`{key}` holds NaN or infinity: the checkpoint is damaged, or its training diverged")
    else:
        return
    raise CheckpointError(
        f"`{key}` is {kind}; weights are dense tensors of float16, bfloat16, float32 or float64\nhint: {remedy}"
    )
