#!/usr/bin/env python3
"""Run this folder's model on a camera or a video, frame by frame. Needs numpy, onnxruntime and OpenCV; Python 3.6 or newer.

    python3 runner.py --verify golden.npz          is it right on this machine?
    python3 runner.py --source csi://0 --show      a Jetson's own camera; also 0, /dev/video0, rtsp://..., clip.mp4

Part of a kit written by effvision (Apache-2.0); README.md beside it says more. Everything about the model is read from the
metadata inside model.onnx: labels, sizes, state, frame rate and the rule that steadies the labels.
"""

import argparse
import contextlib
import hashlib
import json
import os
import sys

import numpy as np
from session import HERE, PROVIDERS, KitError, say, start, write
from stream import Stream
from video import Recording, draw, frames_of, show

__all__ = ["main"]

# Allowed by --verify: the largest difference as a share of the largest number, and the root mean square of the differences
# over that of the numbers. A GPU rounds float32 products to 10 bits (TF32) as half precision does: both are "fp16".
TOLERANCES = {"fp32": (1e-3, 1e-4), "fp16": (5e-2, 2e-2), "int8": (3e-1, 1.5e-1)}


# -- the network ---------------------------------------------------------------------------------------------------------------


def read_block(text, where, inside=None):
    """Read the model's description; return it and its one graph. Refuse what this runner was not made for."""
    try:
        block = json.loads(text)
        block = block[inside] if inside else block
        fits = (block["schema"], block["task"], list(block["graphs"])) == (1, "classification", ["step"])
        graph = block["graphs"].get("step")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitError(f"the description in {where} is damaged ({error!r}): copy the whole kit again") from error
    if not fits:
        wanted = "schema 1, classification, one graph `step`"
        raise KitError(f"this runner is for {wanted}; {where} says otherwise: use the runner of its own kit")
    return block, graph


def of_file(block, otherwise):
    """Return what the model computes with: what its file says, else what the device makes of float32."""
    said = block.get("precision", {})
    return "int8" if "int8" in said else "fp16" if "half" in said else otherwise


class OnnxNetwork:
    """The network in ONNX Runtime, with its state."""

    def __init__(self, path, asked, fp16):
        self.session, text, self.used = start(path, asked, fp16)
        self.block, self.graph = read_block(text, path)
        self.precision = of_file(self.block, "fp32" if self.used == "CPUExecutionProvider" else "fp16")
        self.outputs = [item["name"] for item in self.graph["outputs"]] + [s["output"] for s in self.graph["states"]]
        self.reset()

    def reset(self):
        """Begin a stream: the state is zeros."""
        self.state = {s["input"]: np.zeros([1] + s["shape"], np.float32) for s in self.graph["states"]}

    def step(self, pixels):
        """Advance by one frame; return the first output (1, K)."""
        feed = dict(self.state)
        feed[self.graph["inputs"][0]["name"]] = pixels
        try:
            found = dict(zip(self.outputs, self.session.run(self.outputs, feed)))
        except Exception as error:
            raise KitError(f"onnxruntime failed: {error}") from error
        self.state = {s["input"]: found[s["output"]] for s in self.graph["states"]}
        return found[self.outputs[0]]


class EngineNetwork:
    """The network as a TensorRT engine made by build_engine.sh, run without ONNX Runtime; its state stays on the GPU."""

    def __init__(self, path):
        import tensorrt_engine  # beside this file

        with open(os.path.join(HERE, "model.json"), encoding="utf-8") as file:
            text = file.read()
        self.block, graph = read_block(text, "model.json", "effvision")
        self.precision = of_file(self.block, "fp16")
        if os.path.isfile(path + ".from"):  # written by build_engine.sh
            with open(path + ".from", encoding="utf-8") as file:
                made_from = file.read().strip()
            if made_from not in json.loads(text)["sha256"].values():
                raise KitError(f"{path} was built from another model.onnx than this kit's: run ./build_engine.sh again")
        self.engine = tensorrt_engine.Engine(path, graph)
        self.used = f"TensorRT {self.engine.version} directly ({self.engine.api})"
        say(f"used: {self.used}")
        self.reset, self.step = self.engine.reset, self.engine.step


# -- the three commands --------------------------------------------------------------------------------------------------------


def run(network, options):
    """Label a source until it ends; return the exit code."""
    stream, shown, steps, spent_ms = Stream(network), None, 0, 0.0
    with contextlib.ExitStack() as stack:
        live, fps, frames = frames_of(options.source, stack)
        recording = Recording(options.save, fps, live) if options.save else None
        if recording:
            stack.callback(recording.close)
        try:
            for bgr, timestamp, source in frames:
                answer = stream.update(np.ascontiguousarray(bgr[..., ::-1]), timestamp, source)
                steps, spent_ms = steps + answer["fresh"], spent_ms + answer["prepare_ms"] + answer["run_ms"]
                if options.json:
                    write(sys.stdout, json.dumps(answer))
                elif answer["settled"] and answer["label"] != shown:
                    shown = answer["label"]
                    write(sys.stdout, "{:8.2f} s  {}  {:.2f}".format(timestamp, shown, answer["score"]))
                if recording:
                    recording.add(draw(bgr, answer), timestamp)
                if options.show and not show(draw(bgr, answer)):
                    break
        except KeyboardInterrupt:
            if not live:
                raise
    if not stream.updates:
        raise KitError(f"{options.source} gave no frame")
    say(f"{steps} steps of the network, {spent_ms / max(1, steps):.1f} ms each, on {network.used}")
    return 0


def verify(network, path):
    """Compare preparation, network and label rule with what effvision recorded; return the exit code."""
    try:
        with np.load(path, allow_pickle=False) as file:
            golden = {name: file[name] for name in file.files}
        frames, resets, wanted = golden["frames"], golden["reset"].tolist(), golden["output"]
        prepared, chosen, weights = golden["prepared"].tolist(), golden["chosen"].tolist(), str(golden["weights"])
    except Exception as error:  # numpy and zipfile raise a dozen kinds for damaged files
        raise KitError(f"{path} is no golden file or is damaged: {error}") from error
    if weights != network.block["weights_sha256"]:
        raise KitError(f"{path} was recorded from other weights than the model's: copy the whole kit again")
    stream, got, same, labels = Stream(network), [], 0, []
    for frame, reset, digest, output in zip(frames, resets, prepared, wanted):
        if reset:
            stream.reset(None)
        pixels = stream.prepare(frame)
        same += hashlib.sha256(pixels.astype("<f4").tobytes()).hexdigest() == digest
        got.append(np.array(network.step(pixels)[0], np.float32))
        labels.append(stream.decide(output))  # of the recorded logits: the rule is checked apart from the network
    difference = np.array(got, np.float64) - wanted
    largest = float(np.abs(difference).max() / np.abs(wanted).max())
    relative = float(np.sqrt((difference**2).mean() / (wanted.astype(np.float64) ** 2).mean()))
    most, rms = TOLERANCES[network.precision]
    agreed = labels == chosen
    checks = (
        (same == len(frames), f"preparation: {same} of {len(frames)} frames equal, bit for bit"),
        (
            largest <= most and relative <= rms,  # false for NaN
            f"network: {len(got)} steps, {sum(resets) - 1} reset; largest difference {largest:.1e} of the largest number "
            f"(allowed {most:.0e}), relative rms {relative:.1e} (allowed {rms:.0e}, {network.precision})",
        ),
        (agreed, "labels: the rule gives {}".format("the recorded ones" if agreed else "others than recorded")),
    )
    for good, text in checks:
        say("{}  {}".format("ok " if good else "BAD", text))
    good = all(good for good, _ in checks)
    say(f"verified on {network.used}" if good else f"NOT VERIFIED on {network.used}")
    return 0 if good else 1


def bench(network, runs):
    """Time preparation and network on noise; print milliseconds."""
    stream, noise = Stream(network), np.random.RandomState(0)
    frames = noise.randint(0, 256, (4, 480, 640, 3)).astype(np.uint8)
    period_s = stream.clock.period_s or 1.0
    answers = [stream.update(frames[i % 4], i * period_s, "noise") for i in range(10 + runs)][10:]
    for name in ("prepare_ms", "run_ms"):
        spent = np.percentile([answer[name] for answer in answers], (50, 90, 99))
        write(sys.stdout, "{:<10}  p50 {:8.2f}  p90 {:8.2f}  p99 {:8.2f}".format(name, *spent))
    return 0


def arguments(given):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Run this folder's model on a camera or a video.")
    parser.add_argument(
        "--source", help="camera number, /dev/video0, csi://0, rtsp://..., GStreamer pipeline, video file"
    )
    parser.add_argument("--show", action="store_true", help="open a window; Esc or q ends")
    parser.add_argument("--save", metavar="FILE", help="write the labelled video, .mp4 or .avi")
    parser.add_argument("--json", action="store_true", help="print one JSON object a frame")
    parser.add_argument("--verify", metavar="golden.npz", help="compare with what effvision recorded; exit code 0 or 1")
    parser.add_argument("--bench", metavar="N", type=int, help="time N steps")
    parser.add_argument("--provider", choices=[short for short, _ in PROVIDERS], help="default: the first that works")
    parser.add_argument("--fp32", action="store_true", help="TensorRT through ONNX Runtime: no half precision")
    parser.add_argument("--engine", metavar="model.engine", help="run this TensorRT engine without ONNX Runtime")
    parser.add_argument("--model", default=os.path.join(HERE, "model.onnx"), help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if [options.source, options.verify, options.bench].count(None) != 2:
        parser.error("give one of --source, --verify, --bench")
    if options.bench is not None and options.bench < 1:
        parser.error("--bench takes a number of steps, 1 or more")
    if options.engine and options.provider:
        parser.error("--engine runs without ONNX Runtime: leave --provider out")
    return options


def main(given=None):
    """Run the command line; return the exit code."""
    options = arguments(given)
    try:
        if options.engine:
            network = EngineNetwork(options.engine)
        else:
            network = OnnxNetwork(options.model, options.provider, not options.fp32)
        if options.verify:
            return verify(network, options.verify)
        return bench(network, options.bench) if options.bench else run(network, options)
    except (OSError, KitError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 1


if __name__ == "__main__":
    sys.exit(main())
