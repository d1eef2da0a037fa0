#!/usr/bin/env python3
"""Label cameras and videos with a model on a Triton server. Needs numpy, OpenCV and tritonclient[grpc]; Python 3.8 or newer.

    python3 client.py --url localhost:8001 --source 0                              a camera
    python3 client.py --url gpu:8001 --source rtsp://a/1 --source rtsp://b/1       several, a sequence each

Written by effvision (Apache-2.0); README.md in the folder above says more. The server keeps each camera's state. What is done
before and after the network is done here: the frame clock, the resizing, the smoothing; their settings come from the server.
"""

import argparse
import contextlib
import json
import sys
import threading
import time

import numpy as np
from session import KitError, Network, SequenceLost, say, write
from stream import Stream
from video import frames_of

__all__ = ["main"]


def watch(source, options, stop, only):
    """Label one source until it ends; print its labels as they come."""
    network = Network(options.url, options.model, options.timeout)
    if not network.streaming or network.block["task"] != "classification":
        raise KitError(f"{network.used} does not label streams of frames: use the client beside that model")
    stream, shown, steps, begun_s, named = Stream(network), None, 0, time.monotonic(), "" if only else f"{source}  "
    with contextlib.ExitStack() as stack:
        _, _, frames = frames_of(source, stack)
        for bgr, timestamp, identity in frames:
            if stop.is_set():
                break
            image = np.ascontiguousarray(bgr[..., ::-1])
            try:
                answer = stream.update(image, timestamp, identity)
            except SequenceLost:
                stream.reset("server")
                answer = stream.update(image, timestamp, identity)
            steps += answer["fresh"]
            if options.json:
                write(sys.stdout, json.dumps({"source": source, **answer}))
            elif answer["settled"] and answer["label"] != shown:
                shown = answer["label"]
                write(sys.stdout, "{}{:8.2f} s  {}  {:.2f}".format(named, timestamp, shown, answer["score"]))
        with contextlib.suppress(SequenceLost):
            network.end()
    if not stream.updates and not stop.is_set():
        raise KitError(f"{source} gave no frame")
    spent_s = max(1e-9, time.monotonic() - begun_s)
    say(f"{source}: {steps} steps of {network.used}, {steps / spent_s:.1f} a second")


def run(options):
    """Label all sources, a thread each; return the exit code."""
    stop, failed = threading.Event(), []

    def one(source):
        try:
            watch(source, options, stop, len(options.source) == 1)
        except (KitError, SequenceLost, OSError) as error:
            failed.append(source)
            say(f"error: {source}: {error}")

    threads = [threading.Thread(target=one, args=(source,), daemon=True) for source in options.source]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    except KeyboardInterrupt:
        stop.set()  # each ends its sequence
        for thread in threads:
            thread.join(5)
    return 1 if failed else 0


def arguments(given):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Label cameras and videos with a model on a Triton server.")
    parser.add_argument("--url", default="localhost:8001", help="the server's gRPC address (default: localhost:8001)")
    parser.add_argument("--model", default="@MODEL@", help="default: @MODEL@")
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        help="camera number, /dev/video0, rtsp://..., GStreamer pipeline, video file; give it again for more",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a frame")
    parser.add_argument("--timeout", metavar="S", type=float, default=30.0, help="for one answer (default: 30)")
    return parser.parse_args(given)


def main(given=None):
    """Run the command line; return the exit code."""
    return run(arguments(given))


if __name__ == "__main__":
    sys.exit(main())
