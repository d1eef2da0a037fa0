"""The README of a kit: what to install on that JetPack, the commands, and what was and was not tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effvision.export.targets import Target
from effvision.metadata import Metadata

__all__ = [
    "CLOUD_FILES",
    "FILES",
    "TRACK_FILES",
    "fill_cloud_readme",
    "fill_readme",
    "fill_track_readme",
    "found_in_check",
    "found_in_precision",
]

FILES: Mapping[str, str] = {
    "README.md": "this file",
    "runner.py": "the program; `python3 runner.py --help`",
    "session.py": "opens the model in ONNX Runtime",
    "stream.py": "its preparation, frame clock and smoothing, in numpy",
    "video.py": "its cameras, files and windows, through OpenCV",
    "model.onnx": "the network and its state, and a description of everything else, in its metadata",
    "model.json": "that description, for what does not read ONNX",
    "labels.txt": "the class names, one a line",
    "golden.npz": "frames, and the numbers PyTorch gave for them",
    "build_engine.sh": "builds a TensorRT engine, on the board",
    "tensorrt_engine.py": "runs that engine without ONNX Runtime",
}
"""Every file a kit may hold, in the order a reader wants them."""

_WHEELS = {  # looked up in November 2026; CPU builds are on the package index, GPU builds for JetPack up to 6 are not
    "jetson-nano": """\
    pip3 install --upgrade pip    # the one of Ubuntu 18.04 does not know today's wheels
    pip3 install ./onnxruntime_gpu-1.11.0-cp36-cp36m-linux_aarch64.whl    # from NVIDIA's page "Jetson Zoo", ONNX Runtime

1.11 is the newest ONNX Runtime built for JetPack 4.6 (Python 3.6, TensorRT 8.2, CUDA 10.2). If Python then ends with `Illegal
instruction`, it is numpy 1.19.5: `export OPENBLAS_CORETYPE=ARMV8`. For the CPU alone: `pip3 install onnxruntime==1.10.0`.""",
    "jp51": """\
    pip install ./onnxruntime_gpu-1.16.0-cp38-cp38-linux_aarch64.whl      # from NVIDIA's page "Jetson Zoo", ONNX Runtime

The wheels for JetPack 5.1 are those for Python 3.8 (1.15.1, 1.16.0). For the CPU alone: `pip install onnxruntime==1.19.2`.""",
    "jp60": """\
    pip install 'numpy<2' ./onnxruntime_gpu-*-cp310-cp310-linux_aarch64.whl    # from "Jetson Zoo", the one for JetPack 6.0

`numpy<2`, because JetPack's OpenCV was built with numpy 1. The package index has no GPU build for Python 3.10 on Arm. For the
CPU alone: `pip install 'numpy<2' onnxruntime==1.23.2`.""",
    "jp62": """\
    pip install 'numpy<2' ./onnxruntime_gpu-1.23.0-cp310-cp310-linux_aarch64.whl    # from "Jetson AI Lab", JetPack 6, CUDA 12.6

`numpy<2`, because JetPack's OpenCV was built with numpy 1. The package index has no GPU build for Python 3.10 on Arm. For the
CPU alone: `pip install 'numpy<2' onnxruntime==1.23.2`.""",
    "jp72": """\
    pip install onnxruntime-gpu

The package index has builds for Python 3.12 on Arm since 1.31; whether they hold kernels for Orin's GPU was not verified. The
runner says at its start what is really used. For the CPU alone: `pip install onnxruntime` instead, never both.""",
}

_JETSON = """\
    sudo apt-get update
    sudo apt-get install nvidia-opencv python3-numpy python3-pip python3-venv
    python3 -m venv --system-site-packages ~/kit && . ~/kit/bin/activate
{wheel}

OpenCV is JetPack's own, seen through `--system-site-packages`: it is built with GStreamer, the only way to a CSI camera. **Do
not `pip install opencv-python`**: it has no GStreamer and hides JetPack's, after which `csi://0` cannot be opened. To see which
one Python finds, and whether it says `GStreamer: YES`:

    python3 -c "import cv2; print(cv2.__file__, cv2.getBuildInformation())" | grep -E 'cv2|GStreamer'"""

_ANY = """\
    python3 -m venv ~/kit && . ~/kit/bin/activate
    pip install numpy opencv-python onnxruntime       # NVIDIA GPU: onnxruntime-gpu instead of onnxruntime, never both

On a Jetson write the kit with that board's `--target`: its README names what to install there."""

CLOUD_FILES: Mapping[str, str] = {
    "README.md": "this file",
    "runner.py": "the program; `python3 runner.py --help`",
    "session.py": "opens the model in ONNX Runtime",
    "points/": "how clouds are read, prepared, cut into chunks and labelled, in numpy",
    "model.onnx": "the network, and a description of everything else, in its metadata",
    "model.json": "that description, and the colours of the classes",
    "labels.txt": "the class names, one a line",
    "golden.npz": "a cloud, and what PyTorch gave for it",
}
"""Every file of a kit for clouds, in the order a reader wants them."""

TRACK_FILES: Mapping[str, str] = {
    "README.md": "this file",
    "track.py": "the program; `python3 track.py --help`",
    "session.py": "opens the model in ONNX Runtime",
    "video.py": "cameras, files and windows, through OpenCV",
    "tracking/": "crops, peaks, boxes and who is who, in numpy",
    "model.onnx": "the network and what it keeps of each object, and a description of everything else, in its metadata",
    "model.json": "that description, for what does not read ONNX",
    "golden.npz": "frames, and the numbers and boxes PyTorch gave for them",
}
"""Every file of a kit for tracking, likewise."""

_CLOUD_JETSON = """\
    sudo apt-get update
    sudo apt-get install python3-numpy python3-pip python3-venv
    python3 -m venv --system-site-packages ~/kit && . ~/kit/bin/activate
{wheel}"""
_CLOUD_ANY = """\
    python3 -m venv ~/kit && . ~/kit/bin/activate
    pip install numpy onnxruntime       # NVIDIA GPU: onnxruntime-gpu instead of onnxruntime, never both

On a Jetson write the kit with that board's `--target`: its README names what to install there."""

_NUMBERS = {
    "fp32": "in half precision unless `--fp32`",
    "fp16": "in half precision, as the model is",
    "int8": "on int8 where the model says so and in half precision elsewhere, unless `--fp32`",
}
_TENSORRT = """
## TensorRT

Two ways. With an ONNX Runtime that has TensorRT nothing is to be done: at its first start the runner builds an engine (minutes;
kept in `engine_cache/`), {numbers}. Without ONNX Runtime:

    sudo apt-get install libnvinfer-bin python3-libnvinfer
    ./build_engine.sh                                       # finds trtexec and its version
    python3 runner.py --engine model.engine --verify golden.npz
    python3 runner.py --engine model.engine --source csi://0

An engine fits one release of TensorRT and one GPU, so none is in this kit, and none should be copied between boards.{note}
"""


def fill_readme(
    template: str,
    metadata: Metadata,
    target: Target,
    *,
    files: Sequence[str],
    steps: int,
    tolerances: Mapping[str, tuple[float, float]],
    verified: str,
    device_check: str | None,
) -> str:
    """Return the README of one kit.

    Args:
        template: `kit_files/README.md`, with names between `@`.
        metadata: Of the exported file, its check included.
        target: Of the kit.
        files: Names in the kit.
        steps: Frames of `golden.npz`.
        tolerances: Of `runner.py --verify`: by precision, the largest difference and the relative root mean square.
        verified: What `runner.py --verify` measured here.
        device_check: What the device check predicts; None if it was not run.
    """
    jetson = target.tensorrt is not None
    camera = "csi://0" if jetson else "0"
    values = {
        "PURPOSE": f"{metadata.task} of live pictures, {len(metadata.labels)} labels.",
        "FILES": "\n".join(f"| `{name}` | {FILES[name]} |" for name in files),
        "INSTALL": _JETSON.format(wheel=_WHEELS[target.name]) if jetson else _ANY,
        "CAMERA": camera,
        "PAD": " " * (len("clip.mp4 --save out.mp4   ") - len(f"{camera} --show")),
        "RATE": _rate(metadata.options),
        "STEPS": str(steps),
        "LIMITS": _all_limits(metadata.precision, tolerances),
        "TENSORRT": _TENSORRT.format(note=_note(target), numbers=_NUMBERS[metadata.number_kind]) if jetson else "",
        "ORDER": _order(metadata.precision),
    }
    return _filled(template, {**values, **_of_every_kit(metadata, target, verified, device_check)})


def _of_every_kit(metadata: Metadata, target: Target, verified: str, device_check: str | None) -> dict[str, str]:
    whole = "The float32 graph it was made from" if metadata.precision else "Exported file"
    return {
        "CARD": metadata.card or "A network of your own",
        "TITLE": target.title,
        "TARGET": target.name,
        "DEVICES": f"{target.devices}; {target.note}" if target.note else target.devices,
        "VERSION": metadata.version,
        "PRECISION": found_in_precision(metadata.precision),
        "CHECK": found_in_check(metadata.check, whole),
        "VERIFIED": verified,
        "DEVICE_CHECK": f"- Predicted for {target.title}, from tables: {device_check}\n" if device_check else "",
        "LICENCE": metadata.licence or "licence not stated",
    }


def _filled(template: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    return template


def fill_cloud_readme(
    template: str,
    metadata: Metadata,
    target: Target,
    *,
    fields: Sequence[str],
    tolerances: Mapping[str, tuple[float, float]],
    verified: str,
    device_check: str | None,
) -> str:
    """Return the README of one kit for clouds; the arguments as in `fill_readme`, `fields` those a cloud must have.

    Tolerances: by precision, the share of other labels and the relative root mean square.
    """
    fp32, fp16 = tolerances["fp32"], tolerances["fp16"]
    install = _CLOUD_ANY if target.tensorrt is None else _CLOUD_JETSON.format(wheel=_WHEELS[target.name])
    values = {
        "PURPOSE": f"{metadata.task} of clouds of points, {len(metadata.labels)} classes.",
        "FILES": "\n".join(f"| `{name}` | {text} |" for name, text in CLOUD_FILES.items()),
        "INSTALL": install,
        "FIELDS": ", ".join(f"`{name}`" for name in fields) or "none",
        "LIMITS": f"{fp32[1]:g} on the CPU, or {fp16[1]:g} on a GPU,",
        "SHARES": f"{fp32[0]:.1%} (GPU: {fp16[0]:.1%})",
    }
    return _filled(template, {**values, **_of_every_kit(metadata, target, verified, device_check)})


def fill_track_readme(
    template: str,
    metadata: Metadata,
    target: Target,
    *,
    steps: int,
    tolerances: Mapping[str, tuple[float, float]],
    verified: str,
    device_check: str | None,
) -> str:
    """Return the README of one kit for tracking; the arguments as in `fill_readme`.

    Tolerances: by precision, the relative root mean square and pixels.
    """
    jetson = target.tensorrt is not None
    camera = "csi://0" if jetson else "0"
    half = "half" in metadata.precision
    fp32, fp16 = tolerances["fp32"], tolerances["fp16"]
    values = {
        "PURPOSE": f"{metadata.task} of any objects, each from the box it begins in.",
        "FILES": "\n".join(f"| `{name}` | {text} |" for name, text in TRACK_FILES.items()),
        "INSTALL": _JETSON.format(wheel=_WHEELS[target.name]) if jetson else _ANY,
        "CAMERA": camera,
        "PAD": " "
        * (len("clip.mp4 --box 79 58 131 126 --save out.mp4     ") - len(f"{camera} --box 79 58 131 126 --show")),
        "GROUPS": _groups(metadata.graphs["step"].inputs[0].shape[0]),
        "STEPS": str(steps),
        "LIMITS": f"{fp16[0]:g} (float16)" if half else f"{fp32[0]:g} on the CPU, or {fp16[0]:g} on a GPU,",
        "PIXELS": f"{fp16[1]:g} pixels" if half else f"{fp32[1]:g} pixels (GPU: {fp16[1]:g})",
    }
    return _filled(template, {**values, **_of_every_kit(metadata, target, verified, device_check)})


def _groups(axis: int | str) -> str:
    """Say how many objects go through the network at a time."""
    if isinstance(axis, str):
        return "The model takes any number of objects in one call; on a processor the time grows with their number."
    return (
        f"The model takes exactly {axis} objects in one call, the size that its TensorRT engine is built for. Any number can "
        "be followed: fewer\nare filled up with copies, whose answers are dropped, and more go in groups of "
        f"{axis}, so that {axis + 1} objects take two calls. Where\nonly a processor is left, one object costs as much as "
        f"{axis}: for that write the kit with `--target onnx`, which takes any\nnumber."
    )


def _rate(options: Mapping[str, Any]) -> str:
    fps = options.get("fps")
    if fps is None:
        return "The network runs on each of them."
    return f"Of these the network sees {float(fps):g} a second, chosen by their times, as it was trained."


def _limits(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} of the largest number and {limits[1]:g} in relative root mean square"


def found_in_precision(precision: Mapping[str, Any]) -> str:
    """Say what a model computes with, where it is not float32, as an entry of a list; else nothing."""
    if "half" in precision:
        found = precision["half"]
        return (
            f"\n- float16, compared with float32 on a processor, which computes most of it in float32 again: "
            f"{found['same']} of {found['answers']} answers equal, relative rms error {found['relative_rms']:.1e}; the largest "
            f"number on the way is {found['largest']:.3g}, and float16 ends at 65504."
        )
    if "int8" not in precision:
        return ""
    found = precision["int8"]
    kept = len(found["kept_float"])
    right = (
        f"{found['right_int8']} of {found['labelled']} labelled sources right (float32: {found['right_float']}), "
        if found["labelled"]
        else ""
    )
    return (
        f"\n- int8 ({'for TensorRT' if found['form'] == 'tensorrt' else 'for processors'}), ranges by `{found['rule']}` from "
        f"{found['calibration_steps']} steps, {kept} layers left in float: {right}{found['same']} of {found['answers']} "
        f"answers equal float32's, relative rms error {found['relative_rms']:.3f}; computed here in ONNX Runtime."
        + "".join(f" **Refused, and written all the same: {reason}.**" for reason in found.get("refused", ()))
    )


def _note(target: Target) -> str:
    version = ".".join(str(part) for part in target.tensorrt or ())
    return f" The model is written for TensorRT {version} (opset {target.opset}); newer ones read it too."


def _all_limits(precision: Mapping[str, Any], tolerances: Mapping[str, tuple[float, float]]) -> str:
    """Say by how much the outputs may differ from float32's."""
    if "int8" in precision:
        return f"{_limits(tolerances['int8'])} (int8)"
    half = f"{_limits(tolerances['fp16'])}"
    if "half" in precision:
        return f"{half} (float16)"
    return (
        f"{_limits(tolerances['fp32'])} on the CPU, or {half} on a GPU, where float32 products are rounded to 10 bits "
        "(TF32) or half precision is used"
    )


def _order(precision: Mapping[str, Any]) -> str:
    start = "At its start the runner prints what ONNX Runtime offers"
    if precision.get("int8", {}).get("form") == "cpu":
        return f"{start}. This int8 model is for processors, so only the CPU is used."
    return (
        f"{start} and what is really used: TensorRT, CUDA and the CPU are tried in this\n"
        "order, `--provider` asks for one of them and fails if it cannot be had. When nothing but the CPU is left it says\n"
        "so loudly."
    )


def found_in_check(check: Mapping[str, Any], what: str) -> str:
    """Say what the comparison of `what` with PyTorch measured."""
    found = (
        f"{what} equals PyTorch over {check['steps']} steps; largest difference {check['max_abs']:.1e}, "
        f"relative rms {check['relative_rms']:.1e}."
    )
    return " ".join([found, *(f"Warning: {warning}." for warning in check.get("warnings", ()))])
