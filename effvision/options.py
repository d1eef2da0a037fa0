"""The options of each command of the command line, and what their values may be."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_bench", "add_demo", "add_export", "add_map", "add_run", "add_sample", "natural"]


def _add_model(
    command: argparse.ArgumentParser, *, files: str, threads: str = "threads inside an operator (default: all cores)"
) -> None:
    """Add which model, and what it runs in."""
    command.add_argument("model", help=f"a card's name (`effvision list`), {files}")
    command.add_argument("--card", help="the card whose settings a checkpoint file has")
    command.add_argument("--runtime", choices=("torch", "onnx"), help="default: the exported file where there is one")
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps, tensorrt, coreml, openvino (default: cpu)")
    command.add_argument("--threads", type=_positive, help=threads)


def add_run(command: argparse.ArgumentParser) -> None:
    """Add the options of `effvision run`."""
    _add_model(command, files="a checkpoint or an exported .onnx file")
    command.add_argument(
        "source",
        nargs="+",
        help="camera number, rtsp:// or http:// address, csi://0, video, picture, folder or glob; several run together. For "
        "models of clouds: files of points, folders, globs. For models that edit pictures: label maps in order, or folders",
    )
    command.add_argument(
        "--save",
        metavar="FILE",
        type=Path,
        help="write the annotated video (.mp4, .avi) or picture (.jpg, .png), or the labelled cloud (.ply, .npz, .png, .json); "
        "for several sources a folder. Edited pictures: the last one (.png, .jpg), or a folder for all",
    )
    command.add_argument("--show", action="store_true", help="open a window; Esc or q ends")
    command.add_argument("--smooth", metavar="N", type=_positive, help="average the scores of N frames")
    command.add_argument(
        "--columns", metavar="NAMES", type=_names, help="of clouds in files without names: x,y,z,intensity,..."
    )
    command.add_argument("--drop-nonfinite", action="store_true", help="leave out points of a cloud that hold NaN")
    command.add_argument(
        "--every-frame", action="store_true", help="use every frame instead of the rate the weights know"
    )
    _add_mode(command)
    _add_tracking(command)


def _add_mode(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--mode",
        choices=("local", "exact", "frozen", "reference"),
        help="of models that edit pictures (sige): how far a change is followed (default: local)",
    )


def add_map(command: argparse.ArgumentParser) -> None:
    """Add the options of `effvision map`."""
    files = "a checkpoint, an exported .onnx file, or module:function that makes a predictor"
    _add_model(command, files=files, threads="threads of each worker (default: cores over workers)")
    command.add_argument(
        "--inputs",
        metavar="PATTERN",
        nargs="+",
        action="append",
        required=True,
        help="files, folders, patterns such as 'videos/**/*.mp4'; 'clips/*/' takes folders of pictures as clips",
    )
    command.add_argument("--out", metavar="FILE.parquet", type=Path, required=True, help="the table to write")
    command.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="processes here, or Ray (default: local)"
    )
    command.add_argument("--workers", metavar="N", type=_positive, help="default: one a core, 8 at most")
    command.add_argument("--address", help="of a Ray cluster (default: Ray is started on this machine)")
    command.add_argument(
        "--timeout", metavar="S", type=float, help="seconds one file may take (default: as long as it gets on)"
    )
    command.add_argument(
        "--stall",
        metavar="S",
        type=float,
        default=300.0,
        help="seconds without another frame that mean it hangs (default: 300)",
    )
    command.add_argument(
        "--save-dir",
        metavar="DIR",
        type=Path,
        help="write the labels of each point, or the boxes of each frame, to files there",
    )
    command.add_argument(
        "--save-as", metavar="SUFFIX", help="of these files: .npz (default) or .ply of clouds, .csv of boxes"
    )
    command.add_argument("--retry-errors", action="store_true", help="do files again whose row has an error")
    command.add_argument("--strict", action="store_true", help="exit with 1 if any file has an error")
    command.add_argument(
        "--columns", metavar="NAMES", type=_names, help="of clouds in files without names: x,y,z,intensity,..."
    )
    command.add_argument("--drop-nonfinite", action="store_true", help="leave out points of a cloud that hold NaN")
    _add_mode(command)
    tracking = command.add_argument_group("tracking (patchnet)")
    _add_boxes(tracking)
    tracking.add_argument(
        "--boxes", metavar="FILE.csv", type=Path, help="the objects in the first frame of each file: path,x1,y1,x2,y2"
    )
    _add_detector(tracking)


def _add_tracking(command: argparse.ArgumentParser) -> None:
    """Add what models that follow objects are told."""
    tracking = command.add_argument_group("tracking (patchnet)")
    _add_boxes(tracking)
    _add_detector(tracking)
    tracking.add_argument(
        "--budget-ms", metavar="MS", type=float, help="instead of --every: milliseconds a frame may take on average"
    )
    tracking.add_argument(
        "--confidence", metavar="SHARE", type=float, help="a score, 0..1, below which a frame becomes a key frame early"
    )
    tracking.add_argument("--max-lost", metavar="S", type=float, help="seconds after which a lost object is given up")


def _add_boxes(tracking: argparse._ArgumentGroup) -> None:
    tracking.add_argument(
        "--box",
        nargs=4,
        type=float,
        action="append",
        metavar=("X1", "Y1", "X2", "Y2"),
        help="an object in the first frame, in pixels; give it again for more",
    )
    tracking.add_argument(
        "--box-xywh",
        nargs=4,
        type=float,
        action="append",
        metavar=("X", "Y", "WIDTH", "HEIGHT"),
        help="the same, by its left upper corner and size",
    )


def _add_detector(tracking: argparse._ArgumentGroup) -> None:
    tracking.add_argument(
        "--detector",
        metavar="FILE.onnx",
        type=Path,
        help="a YOLO-style detector that says what to follow, run on key frames",
    )
    tracking.add_argument(
        "--every", metavar="N", type=_positive, help="frames from one key frame to the next (default: 8)"
    )


def add_export(command: argparse.ArgumentParser) -> None:
    """Add the options of `effvision export`."""
    command.add_argument("model", help="a card's name or a checkpoint file")
    command.add_argument("--card", help="the card whose settings a checkpoint file has")
    command.add_argument(
        "--out", metavar="PATH", type=Path, required=True, help="the file to write, or with --target the folder"
    )
    command.add_argument(
        "--target",
        help="write a kit for jetson-nano, jp51, jp60, jp62, jp72 (JetPack 4.6 to 7.2) or onnx (any machine), or a model "
        "repository for triton (NVIDIA Triton Inference Server)",
    )
    command.add_argument(
        "--frames", metavar="SOURCE", help="a video or folder of real frames, or clouds, for the check"
    )
    command.add_argument("--batch", type=_batch, help="streams per call, or 'dynamic' (default: 1); not with --target")
    command.add_argument("--opset", type=natural, help="13 to 20 (default: 17); not with --target")
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


def add_bench(command: argparse.ArgumentParser) -> None:
    """Add the options of `effvision bench`."""
    _add_model(command, files="or an exported .onnx file")
    command.add_argument("--vs", metavar="MODEL", help="another card or file, timed in turns with the first")
    command.add_argument("--streams", type=_positive, default=1, help="streams per call (default: 1)")
    command.add_argument(
        "--providers", metavar="LIST", help="devices in order of preference, such as tensorrt,cuda,cpu"
    )
    command.add_argument("--mode", help="of a model that edits: how far a change is followed (default: local)")
    command.add_argument("--runs", type=_positive, default=100, help="timed steps (default: 100)")
    command.add_argument("--warmup", type=_positive, default=10, help="steps before timing (default: 10)")


def add_sample(command: argparse.ArgumentParser) -> None:
    """Add the options of `effvision sample`."""
    command.add_argument("model", nargs="?", help="a card's name (default: the first that takes such files)")
    command.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help="the file to write, sample.mp4 or sample.ply"
    )
    command.add_argument("--seed", type=natural, default=0, help="another seed, another picture (default: 0)")


def add_demo(command: argparse.ArgumentParser) -> None:
    """Add the options of `effvision demo`."""
    command.add_argument(
        "model", nargs="?", default="tsm-mobilenetv2-motion", help="a card (default: tsm-mobilenetv2-motion)"
    )
    command.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 for the whole network (default: this machine only)"
    )
    command.add_argument("--port", type=natural, default=7860, help="0 takes a free one (default: 7860)")
    command.add_argument(
        "--certificate",
        nargs=2,
        metavar=("CERT.pem", "KEY.pem"),
        help="serve https: browsers give a page on another machine no camera without it",
    )
    command.add_argument("--browser", action="store_true", help="open it in this machine's browser")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _positive(text: str) -> int:
    value = natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {value}")
    return value


def natural(text: str) -> int:
    """Return the whole number, 0 or more, that an option's value must be."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number; got {text!r}")
    return int(text)


def _batch(text: str) -> Any:
    return text if text == "dynamic" else _positive(text)
