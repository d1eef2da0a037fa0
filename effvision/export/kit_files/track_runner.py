#!/usr/bin/env python3
"""Follow objects with this folder's model. Needs numpy, onnxruntime and OpenCV; Python 3.8 or newer.

    python3 track.py --check                                          is it right on this machine?
    python3 track.py clip.mp4 --box 79 58 131 126 --save out.mp4      also 0, /dev/video0, csi://0, rtsp://...

Part of a kit written by effvision (Apache-2.0); README.md beside it says more. Everything about the model is read from the
metadata inside model.onnx; `tracking/` holds what is done with a frame before and after the network.
"""

import argparse
import contextlib
import json
import os
import sys
import time

import numpy as np
from session import HERE, PROVIDERS, KitError, say, start, write
from tracking import (
    EffvisionError,
    Rows,
    Rule,
    State,
    advance,
    check_boxes,
    crop_boxes,
    crop_boxes_numpy,
    draw_boxes,
    empty_state,
    run_rows,
    search_windows,
    template_windows,
    xywh_to_xyxy,
)
from video import Recording, frames_of, show

__all__ = ["main"]

# Allowed by --check: the root mean square of the network's differences over that of its numbers, and pixels between the boxes
# and those recorded. A GPU rounds float32 products to 10 bits (TF32) as half precision does: both are "fp16".
TOLERANCES = {"fp32": (1e-4, 0.5), "fp16": (2e-2, 2.0)}
CROPS = 2.0  # grey levels: OpenCV before release 5 takes samples at places rounded to 1/32 of a pixel
FEW, MANY = 4, 64  # objects a call, where the model takes any number: on a processor more leave its caches


class Network:
    """The network in ONNX Runtime, for any number of objects."""

    def __init__(self, path, asked):
        # no half precision on the way: sums of squares of pixels go beyond it
        self.session, text, self.used = start(path, asked, False)
        self.block = json.loads(text)
        said = (self.block.get("schema"), self.block.get("task"), list(self.block.get("graphs", ())))
        if said != (1, "tracking", ["step"]):
            raise KitError(f"this program is for schema 1, tracking, one graph `step`; {path} says otherwise")
        self.graph = self.block["graphs"]["step"]
        self.axis = self.graph["inputs"][0]["shape"][0]
        half = "half" in self.block.get("precision", {})
        self.precision = "fp32" if self.used == "CPUExecutionProvider" and not half else "fp16"

    def step(self, feed, state):
        """Run one call; return the outputs by name and the next state."""
        given = dict(feed)
        given.update((s["input"], state[s["name"]]) for s in self.graph["states"])
        outputs = [item["name"] for item in self.graph["outputs"]]
        names = outputs + [s["output"] for s in self.graph["states"]]
        given = {name: np.ascontiguousarray(array, np.float32) for name, array in given.items()}
        try:
            found = dict(zip(names, self.session.run(names, given)))
        except Exception as error:
            raise KitError(f"onnxruntime failed: {error}") from error
        kept = State({s["name"]: found[s["output"]] for s in self.graph["states"]})
        return {name: found[name] for name in outputs}, kept

    def rows(self, rows):
        """Run any number of rows: in groups, the last one filled up where the model takes a fixed number."""
        if not len(rows.feed["refresh"]):
            shapes = {item["name"]: item["shape"][1:] for item in self.graph["outputs"]}
            return {name: np.zeros([0, *shape], np.float32) for name, shape in shapes.items()}, rows.held
        fixed = isinstance(self.axis, int)
        most = self.axis if fixed else FEW if self.used == "CPUExecutionProvider" else MANY
        return run_rows(self.step, rows, most=most, fixed=fixed)

    def start_state(self, count):
        """Return the state of objects without a template."""
        return State({s["name"]: np.zeros([count, *s["shape"]], np.float32) for s in self.graph["states"]})


class Follower:
    """Objects from the boxes they begin in to a box in every frame."""

    def __init__(self, network, boxes):
        self.network, self.boxes, self.rule = network, check_boxes(boxes), Rule()
        self.updates = 0
        self.reset(None)

    def reset(self, reason):
        """Begin anew in the first boxes with the next frame."""
        self.state, self.size, self.reason, self.source = empty_state(self.rule), None, reason, None
        self.last_s = None

    def update(self, image, timestamp, source):
        """Take one frame (H, W, 3) uint8 RGB; return plain data and the boxes."""
        if self.source not in (None, source):
            self.reset("source")
        size = image.shape[:2]
        if self.size not in (None, size):
            raise KitError(f"the frames changed their size from {self.size} to {size} (height, width)")
        began = time.perf_counter()
        first = self.size is None
        started = check_boxes(self.boxes, size) if first else np.zeros((0, 4))
        seconds = 0.0 if self.last_s is None else max(0.0, timestamp - self.last_s)
        spent_s = []

        def timed(rows):
            start_s = time.perf_counter()
            found = self.network.rows(rows)
            spent_s.append(time.perf_counter() - start_s)
            return found

        answer, self.state = advance(image, self.state, self.rule, timed, seconds=seconds, started=started)
        ended = time.perf_counter()
        objects = [
            {"id": number + 1, "box": box, "score": score, "lost": lost}
            for number, (box, score, lost) in enumerate(
                zip(np.round(answer["boxes"], 3).tolist(), answer["scores"].tolist(), answer["lost"].tolist())
            )
        ]
        found = {
            "index": self.updates,
            "timestamp": round(timestamp, 4),
            "objects": [{**one, "score": round(one["score"], 4)} for one in objects],
            "reset_reason": self.reason,
            "host_ms": round((ended - began - sum(spent_s)) * 1e3, 3),
            "run_ms": round(sum(spent_s) * 1e3, 3),
        }
        self.last_s = timestamp
        self.size, self.source, self.reason, self.updates = size, source, None, self.updates + 1
        return found, answer


# -- the commands ------------------------------------------------------------------------------------------------------


def drawn(image, answer):
    """Return the picture with boxes, BGR for OpenCV."""
    numbers = list(range(1, len(answer["boxes"]) + 1))
    labels = [f"#{number} {score:.2f}" for number, score in zip(numbers, answer["scores"])]
    return np.ascontiguousarray(
        draw_boxes(image, answer["boxes"], ids=numbers, labels=labels, lost=answer["lost"])[..., ::-1]
    )


def summary(found):
    """Say who is there and who is lost."""
    return ", ".join("{}{}".format(one["id"], " LOST" if one["lost"] else "") for one in found["objects"])


def run(network, options):
    """Follow objects through a source until it ends; return the exit code."""
    follower, shown, spent_ms = Follower(network, options.box), None, 0.0
    if options.save and os.path.realpath(options.save) == os.path.realpath(options.source):
        raise KitError(f"--save would write over {options.source}, which is read: give another name")
    with contextlib.ExitStack() as stack:
        live, fps, frames = frames_of(options.source, stack)
        recording = Recording(options.save, fps, live) if options.save else None
        if recording:
            stack.callback(recording.close)
        try:
            for bgr, timestamp, source in frames:
                image = np.ascontiguousarray(bgr[..., ::-1])
                found, answer = follower.update(image, timestamp, source)
                spent_ms += found["host_ms"] + found["run_ms"]
                if options.json:
                    write(sys.stdout, json.dumps(found))
                elif summary(found) != shown:
                    shown = summary(found)
                    write(sys.stdout, f"{timestamp:8.2f} s  {shown}")
                if recording:
                    recording.add(drawn(image, answer), timestamp)
                if options.show and not show(drawn(image, answer)):
                    break
        except KeyboardInterrupt:
            if not live:
                raise
    if not follower.updates:
        raise KitError(f"{options.source} gave no frame")
    say(f"{follower.updates} frames, {spent_ms / follower.updates:.1f} ms each, on {network.used}")
    return 0


def relative_rms(got, wanted):
    """Root mean square of the differences over that of the numbers; some networks give an output that is zero throughout."""
    wanted = wanted.astype(np.float64)
    difference = float(np.sqrt(((got - wanted) ** 2).mean()))
    return difference / float(np.sqrt((wanted**2).mean())) if wanted.any() else difference


def check(network, path):
    """Compare crops, network and boxes with what effvision recorded; return the exit code."""
    try:
        with np.load(path, allow_pickle=False) as file:
            golden = {name: file[name] for name in file.files}
        frames, track, refresh, weights = (golden[name] for name in ("frames", "track", "refresh", "weights"))
        wanted = {item["name"]: golden["out_" + item["name"]] for item in network.graph["outputs"]}
    except Exception as error:  # numpy and zipfile raise a dozen kinds for damaged files
        raise KitError(f"{path} is no golden file or is damaged: {error}") from error
    if str(weights) != network.block["weights_sha256"]:
        raise KitError(f"{path} was recorded from other weights than the model's: copy the whole kit again")
    sizes = network.block["preprocess"]
    state, worst, got = network.start_state(track.shape[1]), 0.0, {name: [] for name in wanted}
    for step, asked in enumerate(refresh):
        boxes = track[step].astype(np.float64)
        around = search_windows(boxes, sizes["search"] / float(sizes["template"]))
        feed = {
            "search": crop_boxes_numpy(frames[step], around, sizes["search"]),
            "template": crop_boxes_numpy(frames[step], template_windows(boxes), sizes["template"]),
            "refresh": asked,
        }
        cut = crop_boxes(frames[step], around, sizes["search"])
        worst = max(worst, float(np.sqrt(((cut - feed["search"]) ** 2).mean())))
        outputs, state = network.rows(Rows(feed, state))
        for name in wanted:
            got[name].append(outputs[name])
    relative = float(np.max([relative_rms(np.array(got[name]), value) for name, value in wanted.items()]))
    follower = Follower(network, golden["boxes"])
    found = [follower.update(frame, at / 30.0, "golden")[1]["boxes"] for at, frame in enumerate(frames)]
    away = float(np.abs(np.array(found) - track).max())
    rms, pixels = TOLERANCES[network.precision]
    checks = (
        (worst <= CROPS, f"crops: {worst:.1e} grey levels from the exact ones (allowed {CROPS:g})"),
        (  # each of these is false for NaN
            relative <= rms,
            f"network: {len(refresh)} steps; relative rms {relative:.1e} (allowed {rms:.0e}, {network.precision})",
        ),
        (away <= pixels, f"boxes: {len(found)} frames; {away:.1e} pixels from those recorded (allowed {pixels:g})"),
    )
    for good, text in checks:
        say("{}  {}".format("ok " if good else "BAD", text))
    good = all(good for good, _ in checks)
    say(f"verified on {network.used}" if good else f"NOT VERIFIED on {network.used}")
    return 0 if good else 1


def bench(network, options):
    """Time frames of noise with the boxes given, or one; print milliseconds."""
    follower = Follower(network, options.box or [[200.0, 150.0, 280.0, 230.0]])
    frames = np.random.RandomState(0).randint(0, 256, (4, 480, 640, 3)).astype(np.uint8)
    found = [follower.update(frames[i % 4], i / 30.0, "noise")[0] for i in range(10 + options.bench)][10:]
    for name in ("host_ms", "run_ms"):
        spent = np.percentile([one[name] for one in found], (50, 90, 99))
        write(sys.stdout, "{:<8}  p50 {:8.2f}  p90 {:8.2f}  p99 {:8.2f}".format(name, *spent))
    return 0


def arguments(given):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Follow objects with this folder's model.")
    parser.add_argument(
        "source", nargs="?", help="camera number, /dev/video0, csi://0, rtsp://..., GStreamer pipeline, video file"
    )
    place = {"nargs": 4, "type": float, "action": "append", "default": []}
    parser.add_argument(
        "--box", metavar=("X1", "Y1", "X2", "Y2"), help="where an object begins, in pixels; again", **place
    )
    parser.add_argument("--box-xywh", metavar=("X", "Y", "W", "H"), help="likewise, its corner and size", **place)
    parser.add_argument("--show", action="store_true", help="open a window; Esc or q ends")
    parser.add_argument("--save", metavar="FILE", help="write the video with the boxes, .mp4 or .avi")
    parser.add_argument("--json", action="store_true", help="print one JSON object a frame")
    parser.add_argument("--check", action="store_true", help="compare with what effvision recorded; exit code 0 or 1")
    parser.add_argument("--bench", metavar="N", type=int, help="time N frames")
    parser.add_argument("--provider", choices=[short for short, _ in PROVIDERS], help="default: the first that works")
    parser.add_argument("--model", default=os.path.join(HERE, "model.onnx"), help=argparse.SUPPRESS)
    parser.add_argument("--golden", default=os.path.join(HERE, "golden.npz"), help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if [bool(options.source), options.check, options.bench is not None].count(True) != 1:
        parser.error("give a source, or --check, or --bench")
    if options.bench is not None and options.bench < 1:
        parser.error("--bench takes a number of frames, 1 or more")
    options.box = [*options.box, *xywh_to_xyxy(np.reshape(options.box_xywh, (-1, 4))).tolist()]
    if options.source and not options.box:
        parser.error("give --box X1 Y1 X2 Y2, once for each object")
    return options


def main(given=None):
    """Run the command line; return the exit code."""
    options = arguments(given)
    try:
        network = Network(options.model, options.provider)
        if options.check:
            return check(network, options.golden)
        return bench(network, options) if options.bench else run(network, options)
    except (OSError, KitError, EffvisionError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 1


if __name__ == "__main__":
    sys.exit(main())
