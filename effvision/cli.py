"""The command line: `effvision list|info|run|map|demo|export|jetson-check|bench|sample|doctor`.

Exit codes: 0 fine, 1 the job failed, 2 wrong use. `--json` prints one JSON object a line on standard output; progress bars and
messages go to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from effvision.errors import CardError, EffvisionError, InputError
from effvision.options import add_bench, add_demo, add_export, add_map, add_run, add_sample

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (CardError, InputError) as error:
        return _fail(error, 2)
    except EffvisionError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `effvision list | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open for the interpreter's last flush
        return 1


def _fail(error: EffvisionError, code: int) -> int:
    print(f"effvision: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    from effvision import __version__

    parser = argparse.ArgumentParser(prog="effvision", description="Live inference that keeps what it already knows.")
    parser.add_argument("--version", action="version", version=f"effvision {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=run)
        command.add_argument("--json", action="store_true", help="print one JSON object a line")
        return command

    listing = add("list", _list, "List the cards: every set of weights there is a name for.")
    listing.add_argument("family", nargs="?", help="only this family")

    info = add("info", _info, "Say what a card or an exported file is.")
    info.add_argument("model", help="a card's name or an exported .onnx file")

    run = add(
        "run", _run, "Run a model on cameras, videos, pictures, clouds of points or folders; print what it answers."
    )
    add_run(run)

    add_map(
        add(
            "map",
            _map,
            "Run a model over many files, here or on a cluster: a table with one row for each; goes on when cut off.",
        )
    )

    export = add(
        "export", _export, "Write an ONNX file or a device's kit that runs without PyTorch, checked against it."
    )
    add_export(export)

    check = add("jetson-check", _jetson_check, "Predict what a device's TensorRT makes of any ONNX file; nothing runs.")
    check.add_argument("model", help="an .onnx file, of this package or another")
    check.add_argument(
        "--target", required=True, help="jetson-nano, jp51, jp60, jp62, jp72, or onnx (ONNX Runtime alone)"
    )

    bench = add("bench", _bench, "Time the steps of a model on this machine; of two models side by side with --vs.")
    add_bench(bench)

    add_sample(add("sample", _sample, "Generate a sample input file for a model; nothing is downloaded."))

    demo = add("demo", _demo, "Serve the live page: camera, files and samples in the browser.")
    add_demo(demo)

    add(
        "doctor",
        _doctor,
        "Check this machine: libraries, runtimes, cameras; name what is missing and the line that installs it.",
    )
    return parser


def _emit(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False), flush=True)


def _load(options: argparse.Namespace) -> Any:
    """Load a model for running: the bundled exported file starts fastest and needs no PyTorch, so it is preferred."""
    from effvision.loading import preferred_runtime
    from effvision.predictor import Predictor

    runtime = preferred_runtime(options.model, options.runtime, options.device)
    return Predictor.from_pretrained(
        options.model, card=options.card, runtime=runtime, device=options.device, threads=options.threads, progress=True
    )


# -- list, info ----------------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    from effvision.cards import default_card, list_cards

    if options.family:
        default_card(options.family)
    cards = list_cards(options.family)
    if options.json:
        for card in cards:
            _emit(
                {
                    "name": card.name,
                    "family": card.family,
                    "task": card.task,
                    "bundled": card.bundled,
                    "summary": card.summary,
                }
            )
        return 0
    width = max(len(card.name) for card in cards)
    for card in cards:
        where = "bundled" if card.bundled else "fetched"
        print(f"{card.name:<{width}}  {where}  {card.summary}")
    return 0


def _info(options: argparse.Namespace) -> int:
    about = _about_file(Path(options.model)) if options.model.lower().endswith(".onnx") else _about_card(options.model)
    if options.json:
        _emit(about)
        return 0
    width = max(map(len, about)) + 2
    for name, value in about.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_short(item)}" for key, item in value.items())
        if isinstance(value, (list, tuple)):
            value = ", ".join(str(item) for item in value)
        if value not in ("", None):
            print(f"{name:<{width}}{value}")
    return 0


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join(map(str, value))}: --json shows it)"
    return (
        "x".join(str(v) for v in value)
        if isinstance(value, list) and all(isinstance(v, int) for v in value)
        else str(value)
    )


def _about_card(name: str) -> dict[str, Any]:
    from effvision.cards import get_card
    from effvision.checkpoints import bundled, cache_folder

    card = get_card(name)
    place = bundled(card.weights) if card.bundled else cache_folder() / card.weights
    here = place is not None and place.is_file()
    return {
        "name": card.name,
        "family": card.family,
        "task": card.task,
        "summary": card.summary,
        "weights": f"{place} ({'here' if here else 'not here yet: fetched when first used'})",
        "address": list(card.urls),
        "licence": card.licence,
        "paper": card.paper,
        "data": card.data,
        "network": dict(card.network),
        "input": dict(card.preprocess),
        "options": dict(card.options),
        "measured": dict(card.measured),
        "labels": list(card.class_names),
    }


def _about_file(path: Path) -> dict[str, Any]:
    from effvision.runtime.onnx import open_session, read_metadata

    metadata = read_metadata(open_session(path), where=str(path))
    data: dict[str, Any] = json.loads(metadata.to_json())
    tensors: dict[str, Any] = {}
    for graph in data.pop("graphs").values():
        tensors |= {f"input {tensor['name']}": tensor["shape"] for tensor in graph["inputs"]}
        tensors |= {f"output {tensor['name']}": tensor["shape"] for tensor in graph["outputs"]}
        tensors["state"] = [f"{state['name']} {_short(state['shape'])}" for state in graph["states"]]
    return {"file": str(path), "bytes": path.stat().st_size, **tensors, **data}


# -- run, demo -----------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from effvision.running import check, run

    check(options)
    return run(_load(options), options)


def _map(options: argparse.Namespace) -> int:
    from effvision.running_map import run_map

    return run_map(options)


def _demo(options: argparse.Namespace) -> int:
    from effvision.demos.server import Server

    certificate = None
    if options.certificate:
        certificate = (Path(options.certificate[0]), Path(options.certificate[1]))
    print("starting the page ...", file=sys.stderr)
    with Server(options.model, host=options.host, port=options.port, certificate=certificate) as server:
        if options.json:
            _emit({"url": server.url})
        else:
            print(f"effvision is at {server.url} (Ctrl-C ends it)", flush=True)
        if options.browser:
            import webbrowser

            webbrowser.open(server.url)
        server.wait()
    return 0


# -- export, bench, sample, doctor ---------------------------------------------------------------------------------------------


def _export(options: argparse.Namespace) -> int:
    from effvision.export.targets import SERVER, get_target
    from effvision.predictor import Predictor

    given = {name: getattr(options, name) for name in ("batch", "opset", "form") if getattr(options, name) is not None}
    if options.target is not None:
        if options.target != SERVER:
            get_target(options.target)  # before the model is loaded
        if given:
            raise InputError(f"--target decides about --{' and --'.join(given)}: leave it out")
    given |= {"half": options.fp16, "int8": _int8(options)}
    model = Predictor.from_pretrained(options.model, card=options.card, runtime="torch", progress=True)
    if "form" in given and model.takes != "clouds":
        raise InputError(f"--form is for models of clouds of points; {options.model} has one form: leave it out")
    report: Any
    with _waiting("exporting and checking against PyTorch") as notify:
        if options.target is None:
            report = model.export(options.out, frames=options.frames, notify=notify, **given)
        else:
            report = model.export_kit(options.target, options.out, frames=options.frames, notify=notify, **given)
    if options.json:
        _emit(report.to_dict())
    else:
        print(report)
    return 0


def _int8(options: argparse.Namespace) -> Any:
    """Return what --int8 and its company ask for; None for float."""
    from effvision.export import Int8
    from effvision.sources.files import labelled_folder

    if options.int8 is None:
        named = {"--calibrate": options.calibrate, "--labelled": options.labelled, "--force": options.force}
        if alone := [name for name, value in named.items() if value]:
            raise InputError(f"{', '.join(alone)} goes with --int8 cpu or --int8 tensorrt")
        return None
    labelled = None if options.labelled is None else labelled_folder(options.labelled)
    return Int8(options.int8, calibration=options.calibrate, labelled=labelled, force=options.force)


@contextlib.contextmanager
def _waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Show that something long is going on, with the seconds it has taken, where standard error is a terminal."""
    import threading

    from tqdm import tqdm

    done = threading.Event()
    with tqdm(desc=text, bar_format="{desc} ... {elapsed}", disable=None, leave=False) as bar:

        def tick() -> None:
            while not done.wait(0.5):
                bar.refresh()

        ticking = threading.Thread(target=tick, daemon=True)
        ticking.start()
        try:
            yield bar.set_description_str
        finally:
            done.set()
            ticking.join()


def _jetson_check(options: argparse.Namespace) -> int:
    from effvision.export.device_check import check_device

    report = check_device(options.model, options.target)
    if options.json:
        _emit(report.to_dict())
    else:
        print(report)
    return 0 if report.passed else 1


def _bench(options: argparse.Namespace) -> int:
    from effvision.benchmark import time_steps

    models = [_on_first_device(options, name) for name in (options.model, options.vs) if name]
    if any(model.takes == "labels" for model in models):
        return _bench_edits(models, options)
    if options.mode is not None:
        raise InputError(f"{options.model} edits nothing\nhint: leave --mode out")
    found = time_steps(models, runs=options.runs, warmup=options.warmup, streams=options.streams)
    ratio = {"time_over_first": round(found[1].p50_ms / found[0].p50_ms, 3)} if options.vs else {}
    if options.json:
        for figures in found:
            _emit({**figures.to_dict(), **(ratio if figures is found[-1] else {})})
        return 0
    for figures in found:
        print(figures.model)
        for name, value in figures.to_dict().items():
            if name not in ("model", "runtime", "device") and value is not None:
                print(f"  {name:<14}{value:>14,}" if isinstance(value, int) else f"  {name:<14}{value:14.3f}")
    if ratio:
        print(f"the second takes {ratio['time_over_first']:.2f} of the first one's time (medians, in turns)")
    return 0


def _bench_edits(models: Sequence[Any], options: argparse.Namespace) -> int:
    """Time models that edit pictures: a full pass and edits of several sizes."""
    from effvision.benchmark_edits import time_edits

    if len(models) > 1 or options.streams != 1:
        raise InputError(f"{options.model} edits one picture at a time\nhint: leave --vs and --streams out")
    found = time_edits(models[0], rounds=options.runs, warmup=options.warmup, mode=options.mode or "local")
    if options.json:
        _emit(found.to_dict())
    else:
        print(found)
    return 0


def _on_first_device(options: argparse.Namespace, model: str) -> Any:
    """Load a model on the first of `--providers` that works; each that does not is named."""
    if options.providers and options.runtime is None:
        options.runtime = "onnx"  # they are ONNX Runtime's
    wanted = [name.strip() for name in (options.providers or options.device).split(",") if name.strip()]
    options.model = model
    for place, device in enumerate(wanted, 1):
        options.device = device
        try:
            return _load(options)
        except InputError as error:
            if place == len(wanted):
                raise
            print(f"not on {device}: {str(error).partition(chr(10))[0]}", file=sys.stderr)
    raise InputError("--providers names no device")


def _sample(options: argparse.Namespace) -> int:
    from effvision.cards import get_card, list_cards, predictor_class

    if options.model:
        card = get_card(options.model)
    else:  # the first whose samples are such files, rather one that needs to be told nothing else
        suffix, cards = options.out.suffix.lower(), list_cards()
        fitting = [card for card in cards if predictor_class(card.family).sample_suffix == suffix] or cards
        card = min(fitting, key=lambda one: len(predictor_class(one.family).sample_words))
    family = predictor_class(card.family)
    path = family.write_sample(options.out, card=card.name, seed=options.seed)
    if options.json:
        _emit({"file": str(path), "bytes": path.stat().st_size})
    else:
        words = " ".join(part for part in (str(path), family.sample_words) if part)
        target = "picture.png" if family.takes == "labels" else f"labelled{path.suffix}"
        print(f"wrote {path}\ntry: effvision run {card.name} {words} --save {target}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from effvision.doctor import diagnose

    checks = diagnose()
    for check in checks:
        if options.json:
            _emit(check.to_dict())
            continue
        mark = {True: "ok  ", False: "BAD ", None: "note"}[check.ok]
        print(f"{mark}  {check.name:<22}{check.detail}")
        if check.hint:
            print(f"      hint: {check.hint}")
    return 1 if any(check.ok is False for check in checks) else 0
