"""Devices an exported file is made for: what their JetPack brings, and what follows for the file.

From NVIDIA's release notes and the parser's documentation per TensorRT release; see `operators.json` for the operators.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from effvision.errors import InputError

__all__ = ["SERVER", "TARGETS", "Target", "get_target"]

SERVER = "triton"
"""The target that is no device: a model repository of NVIDIA Triton Inference Server; see `effvision.export.triton`."""


@dataclass(frozen=True)
class Target:
    """One kind of device.

    Attributes:
        name: As given to `--target`.
        title: For people.
        devices: Boards it stands for.
        tensorrt: Release (major, minor) its JetPack brings; None where there is no TensorRT.
        opset: Written by default: the newest that its parser and its ONNX Runtime read and that every trap allows.
        newest_opset: Newest one its TensorRT's parser is documented for (without TensorRT: its ONNX Runtime).
        ir: Newest ONNX file format that the ONNX Runtime paired with its TensorRT reads: 1.11 and 1.14 read 8, 1.15 to 1.17
            read 9, 1.18 and newer read 10. For `onnx`, of 1.17, the oldest this package takes.
        python: (major, minor) of its system Python: the kit's syntax.
        note: What a reader has to know; empty if nothing.
        int8: Its boards compute on int8 faster than on float16 (or, without TensorRT, its processor may).
    """

    name: str
    title: str
    devices: str
    tensorrt: tuple[int, int] | None
    opset: int
    newest_opset: int
    ir: int
    python: tuple[int, int]
    note: str = ""
    int8: bool = True


_ALL = (
    Target(
        "jetson-nano",
        "JetPack 4.6",
        "Jetson Nano (2019), TX2, Xavier",
        (8, 2),
        opset=13,
        newest_opset=13,
        ir=8,
        python=(3, 6),
        note="ONNX Runtime 1.11 is the newest built for it",
        int8=False,  # of these boards only Xavier has int8 units; the kit is for all of them
    ),
    Target("jp51", "JetPack 5.1", "Xavier, Orin", (8, 5), opset=17, newest_opset=17, ir=8, python=(3, 8)),
    Target("jp60", "JetPack 6.0", "Orin", (8, 6), opset=17, newest_opset=17, ir=9, python=(3, 10)),
    Target(
        "jp62",
        "JetPack 6.1 and 6.2",
        "Orin, Orin Nano Super",
        (10, 3),
        opset=17,
        newest_opset=20,
        ir=10,
        python=(3, 10),
    ),
    Target(
        "jp72",
        "JetPack 7.2",
        "Orin, Thor",
        (10, 16),
        opset=17,
        newest_opset=24,  # as documented for 10.15
        ir=10,
        python=(3, 12),
        note="its TensorRT release is taken from its CUDA release, not from a board",
    ),
    Target("onnx", "ONNX Runtime", "any machine", None, opset=17, newest_opset=20, ir=9, python=(3, 8)),
)

TARGETS: Mapping[str, Target] = {target.name: target for target in _ALL}
"""Every target by name."""


def get_target(name: str) -> Target:
    """Return a target.

    Raises:
        InputError: there is none of that name; a near one is suggested.
    """
    if isinstance(name, str) and name in TARGETS:
        return TARGETS[name]
    if name == SERVER:
        raise InputError(f"{SERVER} is a server, not a device; devices are: {', '.join(TARGETS)}")
    near = difflib.get_close_matches(str(name), [*TARGETS, SERVER], n=1)
    hint = f"\nhint: did you mean {near[0]!r}?" if near else ""
    raise InputError(f"there is no target {str(name)[:40]!r}; there are: {', '.join([*TARGETS, SERVER])}{hint}")
