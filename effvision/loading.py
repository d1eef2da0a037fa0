"""Which runtime a model gets, and which file it runs from: the decisions behind `Predictor.from_pretrained`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

from effvision.cards import Card, list_cards
from effvision.checkpoints import bundled, cache_folder, find_weights
from effvision.errors import CardError, CheckpointError, EffvisionError, InputError, MissingDependencyError

__all__ = ["RuntimeName", "card_of", "check_choices", "choose", "exported", "installed_runtimes", "preferred_runtime"]

RuntimeName = Literal["torch", "onnx"]


def check_choices(runtime: object, device: object, threads: object, card: object) -> None:
    """Check the arguments of `from_pretrained` that choose how a model runs."""
    if runtime is not None and (not isinstance(runtime, str) or runtime not in ("torch", "onnx")):
        raise InputError(f"`runtime` must be 'torch' or 'onnx'; got {runtime!r}")
    if not isinstance(device, str) or device == "meta":
        raise InputError(f"`device` must be text such as 'cpu' or 'cuda'; got {device!r}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024):
        raise InputError(f"`threads` must be 1 to 1024; got {threads!r}")
    if card is not None and not isinstance(card, str):
        raise InputError(f"`card` must be a card's name; got {type(card).__name__}")


def installed_runtimes() -> tuple[RuntimeName, ...]:
    """Return the runtimes this environment can import, PyTorch first.

    Raises:
        MissingDependencyError: there is none.
    """
    found: list[RuntimeName] = []
    if importlib.util.find_spec("torch") is not None:
        found.append("torch")
    if importlib.util.find_spec("onnxruntime") is not None:
        found.append("onnx")
    if not found:
        raise MissingDependencyError(
            "neither PyTorch nor ONNX Runtime is installed\n"
            "hint: pip install 'effvision[torch]' (training, export, every card) or pip install 'effvision[onnx]' "
            "(exported files and bundled models; small)"
        )
    return tuple(found)


def choose(runtime: RuntimeName | None) -> RuntimeName:
    """Return the runtime asked for, or PyTorch if it is installed, else ONNX Runtime."""
    installed = installed_runtimes() if runtime is None else ()
    if runtime == "torch" and importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            "runtime 'torch' needs PyTorch, which is not installed\nhint: pip install 'effvision[torch]'"
        )
    if runtime == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        raise MissingDependencyError(
            "runtime 'onnx' needs ONNX Runtime, which is not installed\nhint: pip install 'effvision[onnx]'"
        )
    return runtime or installed[0]


def preferred_runtime(model: str, runtime: RuntimeName | None, device: str) -> RuntimeName | None:
    """Return ONNX Runtime for a card with a bundled exported file on the processor, where nothing else was asked for.

    Such a file starts fastest, takes the least memory, and needs no PyTorch.
    """
    exported = {name for card in list_cards() if card.onnx for name in (card.name, card.family if card.default else "")}
    if runtime is None and device == "cpu" and model in exported and importlib.util.find_spec("onnxruntime"):
        return "onnx"
    return runtime


def card_of(path: Path) -> str:
    """Read the card's name from the header of a safetensors file of ours."""
    if not path.is_file():
        raise CardError(f"there is no card and no file named {str(path)!r}")
    if path.suffix.lower() == ".safetensors":
        from safetensors import safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                name = (file.metadata() or {}).get("card")
        except Exception as error:  # safetensors raises its own kind and OSError
            raise CheckpointError(
                f"{path} is no safetensors file or is damaged: {error}\nhint: copy or download it again"
            ) from error
        if name:
            return str(name)
    raise CardError(
        f"{path} does not say which network it belongs to\nhint: from_pretrained({str(path)!r}, card=NAME); `effvision list`"
    )


def exported(target: Any, card: Card, *, progress: bool) -> Path:
    """Return the exported file of a card: bundled, in the cache, or written to the cache now."""
    if card.onnx and (path := bundled(card.onnx)):
        return path
    from effvision import __version__

    path = cache_folder() / f"{card.name}-{__version__}.onnx"
    here = cache_folder() / card.weights
    if path.is_file() and not (here.is_file() and here.stat().st_mtime > path.stat().st_mtime):  # weights renewed since
        return path
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            f"{card.name} has no exported file here, and making one needs PyTorch\n"
            f"hint: pip install 'effvision[torch]', or run `effvision export {card.name} --out {path}` on another machine"
        )
    weights = find_weights(card, progress=progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EffvisionError(f"cannot make the cache folder {path.parent}: {error}") from error
    from tqdm import tqdm

    with tqdm(total=1, desc=f"exporting {card.name} once", disable=not progress) as bar:
        target._from_torch(card, weights, device="cpu").export(path, batch="dynamic")
        bar.update()
    return path
