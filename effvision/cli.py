"""The command line: `effvision list|info|run|demo|export|jetson-check|bench|sample|doctor`.

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
    _run_options(run)

    export = add(
        "export", _export, "Write an ONNX file or a device's kit that runs without PyTorch, checked against it."
    )
    _export_options(export)

    check = add("jetson-check", _jetson_check, "Predict what a device's TensorRT makes of any ONNX file; nothing runs.")
    check.add_argument("model", help="an .onnx file, of this package or another")
    check.add_argument(
        "--target", required=True, help="jetson-nano, jp51, jp60, jp62, jp72, or onnx (ONNX Runtime alone)"
    )

    bench = add("bench", _bench, "Time the steps of a model on this machine; of two models side by side with --vs.")
    _bench_options(bench)

    sample = add("sample", _sample, "Generate a sample input file for a model; nothing is downloaded.")
    sample.add_argument("model", nargs="?", help="a card's name (default: the first)")
    sample.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help="the file to write, sample.mp4 or sample.ply"
    )
    sample.add_argument("--seed", type=_natural, default=0, help="another seed, another picture (default: 0)")

    demo = add("demo", _demo, "Serve the live page: camera, files and samples in the browser.")
    _demo_options(demo)

    add(
        "doctor",
        _doctor,
        "Check this machine: libraries, runtimes, cameras; name what is missing and the line that installs it.",
    )
    return parser


def _model_options(command: argparse.ArgumentParser, *, files: str) -> None:
    """Add which model, and what it runs in."""
    command.add_argument("model", help=f"a card's name (`effvision list`), {files}")
    command.add_argument("--card", help="the card whose settings a checkpoint file has")
    command.add_argument("--runtime", choices=("torch", "onnx"), help="default: the exported file where there is one")
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps, tensorrt, coreml, openvino (default: cpu)")
    command.add_argument("--threads", type=_positive, help="threads inside an operator (default: all cores)")


def _run_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `effvision run`."""
    _model_options(command, files="a checkpoint or an exported .onnx file")
    command.add_argument(
        "source",
        nargs="+",
        help="camera number, rtsp:// or http:// address, csi://0, video, picture, folder or glob; several run together. For "
        "models of clouds: files of points, folders, globs",
    )
    command.add_argument(
        "--save",
        metavar="FILE",
        type=Path,
        help="write the annotated video (.mp4, .avi) or picture (.jpg, .png), or the labelled cloud (.ply, .npz, .png, .json); "
        "for several sources a folder",
    )
    command.add_argument("--show", action="store_true", help="open a window; Esc or q ends")
    command.add_argument("--smooth", metavar="N", type=_positive, help="average the scores of N frames")
    command.add_argument(
        "--every-frame", action="store_true", help="use every frame instead of the rate the weights know"
    )


def _export_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `effvision export`."""
    command.add_argument("model", help="a card's name or a checkpoint file")
    command.add_argument("--card", help="the card whose settings a checkpoint file has")
    command.add_argument(
        "--out", metavar="PATH", type=Path, required=True, help="the file to write, or with --target the kit's folder"
    )
    command.add_argument(
        "--target",
        help="write a kit for jetson-nano, jp51, jp60, jp62, jp72 (JetPack 4.6 to 7.2) or onnx (any machine)",
    )
    command.add_argument(
        "--frames", metavar="SOURCE", help="a video or folder of real frames, or clouds, for the check"
    )
    command.add_argument("--batch", type=_batch, help="streams per call, or 'dynamic' (default: 1); not with --target")
    command.add_argument("--opset", type=_natural, help="13 to 20 (default: 17); not with --target")
    command.add_argument(
        "--form",
        choices=("scatter", "tables"),
        help="of models of clouds: for ONNX Runtime and TensorRT 10 (default), or with voxel tables made on the host",
    )
    command.add_argument("--fp16", action="store_true", help="compute in half precision, for GPUs")
    command.add_argument(
        "--int8",
        choices=("cpu", "tensorrt"),
        help="compute on 8 bit integers, for processors or for TensorRT; refused if it is less accurate, or not faster here",
    )
    command.add_argument(
        "--calibrate",
        metavar="SOURCE",
        nargs="+",
        help="recordings of what the model will see, to find int8's ranges: 192 steps in all, or 48 clips",
    )
    command.add_argument(
        "--labelled", metavar="DIR", type=Path, help="a folder with one folder of recordings a label, to judge int8 by"
    )
    command.add_argument("--force", action="store_true", help="write an int8 file even if it is refused")


def _bench_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `effvision bench`."""
    _model_options(command, files="or an exported .onnx file")
    command.add_argument("--vs", metavar="MODEL", help="another card or file, timed in turns with the first")
    command.add_argument("--streams", type=_positive, default=1, help="streams per call (default: 1)")
    command.add_argument(
        "--providers", metavar="LIST", help="devices in order of preference, such as tensorrt,cuda,cpu"
    )
    command.add_argument("--runs", type=_positive, default=100, help="timed steps (default: 100)")
    command.add_argument("--warmup", type=_positive, default=10, help="steps before timing (default: 10)")


def _demo_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `effvision demo`."""
    command.add_argument(
        "model", nargs="?", default="tsm-mobilenetv2-motion", help="a card (default: tsm-mobilenetv2-motion)"
    )
    command.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 for the whole network (default: this machine only)"
    )
    command.add_argument("--port", type=_natural, default=7860, help="0 takes a free one (default: 7860)")
    command.add_argument(
        "--certificate",
        nargs=2,
        metavar=("CERT.pem", "KEY.pem"),
        help="serve https: browsers give a page on another machine no camera without it",
    )
    command.add_argument("--browser", action="store_true", help="open it in this machine's browser")


def _positive(text: str) -> int:
    value = _natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {value}")
    return value


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number; got {text!r}")
    return int(text)


def _batch(text: str) -> Any:
    return text if text == "dynamic" else _positive(text)


def _emit(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False), flush=True)


def _load(options: argparse.Namespace) -> Any:
    """Load a model for running: the bundled exported file starts fastest and needs no PyTorch, so it is preferred."""
    from importlib.util import find_spec

    from effvision.cards import list_cards
    from effvision.predictor import Predictor

    runtime = options.runtime
    exported = {card.name for card in list_cards() if card.onnx}
    if runtime is None and options.device == "cpu" and options.model in exported and find_spec("onnxruntime"):
        runtime = "onnx"
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
    from effvision.export.targets import get_target
    from effvision.predictor import Predictor

    given = {name: getattr(options, name) for name in ("batch", "opset", "form") if getattr(options, name) is not None}
    if options.target is not None:
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

    card = get_card(options.model) if options.model else list_cards()[0]
    path = predictor_class(card.family).write_sample(options.out, card=card.name, seed=options.seed)
    if options.json:
        _emit({"file": str(path), "bytes": path.stat().st_size})
    else:
        print(f"wrote {path}\ntry: effvision run {card.name} {path} --save labelled{path.suffix}")
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
