"""The README of a model in a Triton repository: how it is served and asked, and what was and was not tested."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from effvision.export.kit_readme import found_in_check, found_in_precision
from effvision.export.triton_config import IDLE_S, KEPT, STREAMS
from effvision.metadata import Metadata

__all__ = ["fill_triton_readme"]

_FILES: Mapping[str, str] = {
    "README.md": "this file",
    "config.pbtxt": "what Triton is told of the model",
    "labels.txt": "the class names, one a line; Triton's classification extension reads them too",
    "1/model.onnx": "the network",
    "client/": "the client, `client.py`, and what it needs; Triton passes over folders that are no number",
}
_FRAME_USE = """\
    python3 client/client.py --url HOST:8001 --source 0                               # a camera; prints labels as they come
    python3 client/client.py --url HOST:8001 --source rtsp://a/1 --source clip.mp4    # several, a sequence each
    python3 client/client.py --url HOST:8001 --source clip.mp4 --json                 # one JSON object a frame"""
_CLOUD_USE = """\
    python3 client/client.py --url HOST:8001 scan.ply --save labelled.ply     # a class for every point
    python3 client/client.py --url HOST:8001 a.ply b.ply --json               # one JSON object a cloud"""
_FRAME_CLIENT = """\
A camera is a sequence: its first request starts it, its last one ends it, and in between Triton keeps its state and puts
frames of several cameras into one call. The client prepares frames ({size}, RGB 0..255), chooses them by their times{rate}
and steadies the labels, as `effvision run` does. After a gap, a seek or another source it starts its sequence anew. A
camera that is silent for {idle} s is forgotten by the server; the client notices and starts anew."""
_CLOUD_CLIENT = """\
Nothing is kept between requests. The client reads a cloud, makes what the network takes ({inputs} arrays a call), and joins the
answers, with the same code as `effvision run`."""
_STATEFUL_AXIS = """\
The first axis of every tensor in `1/model.onnx` is the streams of one call. Triton makes and splits it, so `config.pbtxt`
leaves it out, and a request is one stream: `{input}` (1, {shape}). Each of the {states} state inputs is paired with its
output (`sequence_batching.state`) and starts as zeros. The strategy is `oldest`: a call holds whichever streams have a
frame. With `direct` a stream would own a row of the batch for as long as it lasts, computed with or without a frame, and no
more than `max_batch_size` streams could come. No control inputs (START, END, READY, CORRID): the graph does not need them,
since Triton zeroes the state itself."""
_BATCHED_AXIS = """\
The first axis of every tensor in `1/model.onnx` counts clouds. Triton makes and splits it, so `config.pbtxt` leaves it out;
the axis of points is open (-1). Requests of equal sizes share a call (`dynamic_batching`)."""
_PLAIN_AXIS = """\
There is no axis of clouds (`max_batch_size: 0`): rows are voxels, and every request is one cloud with its kernel maps,
whose sizes (-1) follow from it. The maps are made by the client and travel with each request: tens of megabytes for a scene
of a hundred thousand voxels, so put the client near the server."""
_STATEFUL_HINTS = """\
- A frame is {frame:,} bytes on the wire. State: {state:,} bytes a stream, held twice (before and after a step): {all:.0f}
  MB for the {kept:,} streams of `max_candidate_sequences`; more wait until one ends.
- While a call runs, frames of other streams queue, and the next call takes up to {streams} of them (`max_batch_size`). To
  trade latency for fuller calls on a GPU, add `max_queue_delay_microseconds: 2000` inside `oldest {{ }}`.
- `instance_group {{ count: 2 }}` lets copies overlap with computing; streams are divided among the instances for as long as
  they last.
- On a processor ONNX Runtime takes all cores for each call; `parameters {{ key: "intra_op_thread_count" value {{
  string_value: "1" }} }}` with `instance_group {{ count: CORES kind: KIND_CPU }}` is the other way round.
- TensorRT inside ONNX Runtime (`optimization.execution_accelerators`) is not switched on: it builds an engine for every new
  number of streams."""
_PLAIN_HINTS = """\
- `instance_group {{ count: 2 }}` serves two clouds at a time.
- Making the arrays is work of the client's processor: more clients, more clouds.{more}"""


def fill_triton_readme(template: str, metadata: Metadata, *, name: str, state_bytes: int) -> str:
    """Return the README of one model.

    Args:
        template: `kit_files/triton_README.md`, with names between `@`.
        metadata: Of the exported file, its check included.
        name: Of the model's folder.
        state_bytes: Of one stream.
    """
    spec = metadata.graphs["step"]
    first = spec.inputs[0]
    if spec.states:
        shape = tuple(int(axis) for axis in first.shape[1:])
        said = _of_streams(metadata, first.name, shape, state_bytes)
    else:
        batched = first.shape[0] == "batch"
        said = {
            "PURPOSE": f"{metadata.task} of clouds of points, {len(metadata.labels)} classes.",
            "NEEDS": "numpy 'tritonclient[grpc]'",
            "USE": _CLOUD_USE,
            "CLIENT": _CLOUD_CLIENT.format(inputs=len(spec.inputs)),
            "AXIS": _BATCHED_AXIS if batched else _PLAIN_AXIS,
            "HINTS": _PLAIN_HINTS.format(
                more=f"\n- A call takes up to {STREAMS} clouds of equal size." if batched else ""
            ),
            "SIMULATED": "They run the client over gRPC and get the predictor's labels.",
        }
    whole = "The float32 graph it was made from" if metadata.precision else "Exported file"
    values = {
        "FILES": "\n".join(f"| `{file}` | {text} |" for file, text in _FILES.items()),
        "MODEL": name,
        "VERSION": metadata.version,
        "CHECK": found_in_check(metadata.check, whole),
        "PRECISION": found_in_precision(metadata.precision),
        "LICENCE": metadata.licence or "licence not stated",
        **said,
    }
    for key, value in values.items():
        template = template.replace(f"@{key}@", value)
    return template


def _of_streams(metadata: Metadata, name: str, shape: tuple[int, ...], state_bytes: int) -> dict[str, str]:
    fps = metadata.options.get("fps")
    return {
        "PURPOSE": f"{metadata.task} of live pictures, {len(metadata.labels)} labels.",
        "NEEDS": "numpy opencv-python 'tritonclient[grpc]'",
        "USE": _FRAME_USE,
        "CLIENT": _FRAME_CLIENT.format(
            size="x".join(map(str, reversed(shape[1:]))),
            rate="" if fps is None else f" ({float(fps):g} a second)",
            idle=IDLE_S,
        ),
        "AXIS": _STATEFUL_AXIS.format(
            input=name, shape=", ".join(map(str, shape)), states=len(metadata.graphs["step"].states)
        ),
        "HINTS": _STATEFUL_HINTS.format(
            frame=4 * prod(shape), state=state_bytes, all=2 * KEPT * state_bytes / 1e6, kept=KEPT, streams=STREAMS
        ),
        "SIMULATED": "They run the graph through that state mapping, streams interleaved in one call, and get\n"
        "  the numbers of a session each.",
    }
