#!/usr/bin/env python3
"""Label clouds of points with a model on a Triton server. Needs numpy and tritonclient[grpc]; Python 3.8 or newer.

    python3 client.py scan.ply --save coloured.ply           also .pcd .npy .npz .bin .txt .off .obj, and .las .laz with laspy

Written by effvision (Apache-2.0); README.md in the folder above says more. The server holds the network; `points/` is what is
done to a cloud before and after it, here.
"""

import argparse
import json
import os
import sys
import time

import numpy as np
from points import EffvisionError, answer, open_cloud, parse_input, write_ply
from session import KitError, Network, say, write

__all__ = ["main"]


def label(network, cloud, seed=0):
    """Return labels (P,) and scores (P,) of a cloud."""
    inputs = parse_input(network.block["preprocess"])
    cloud.need(inputs.fields)
    return answer(network.block, inputs, inputs.arrays(cloud), network.logits, seed=seed)


def one(network, path, options):
    """Label one file and print what is in it."""
    target = options.save
    if target and os.path.isdir(target):
        target = os.path.join(target, os.path.splitext(os.path.basename(path))[0] + ".ply")
    if target and os.path.realpath(target) == os.path.realpath(path):
        raise KitError(f"--save would write over {path}, which is read: give another name")
    cloud = open_cloud(path)
    started = time.perf_counter()
    labels, scores = label(network, cloud)
    spent_s = time.perf_counter() - started
    names = network.block["labels"]
    counts = np.bincount(labels, minlength=len(names)).tolist()
    if options.json:
        found = {"source": path, "points": len(cloud), "counts": dict(zip(names, counts)), "s": round(spent_s, 4)}
        write(sys.stdout, json.dumps(found))
    else:
        write(sys.stdout, f"{path}: {len(cloud):,} points in {spent_s:.1f} s on {network.used}")
        width = max(map(len, names))
        for name, count in zip(names, counts):
            write(sys.stdout, f"  {name:<{width}}  {count:>11,}  {100 * count / len(cloud):5.1f} %")
    if target:
        xyz = cloud.world() if cloud.origin.any() else cloud.xyz
        told = "\n".join(f"label {place} is {name}" for place, name in enumerate(names))
        write_ply(target, xyz, comment=told, label=labels.astype(np.uint16), score=scores)
        say(f"wrote {target}")


def run(options):
    """Label the clouds; return the exit code."""
    if options.save and len(options.cloud) > 1 and not os.path.isdir(options.save):
        raise KitError(f"--save takes a folder that exists for {len(options.cloud)} clouds; got {options.save}")
    network = Network(options.url, options.model, options.timeout)
    if network.block["task"] != "segmentation":
        raise KitError(f"{network.used} does not label points: use the client beside that model")
    failed = 0
    for path in options.cloud:
        try:
            one(network, path, options)
        except (EffvisionError, KitError, OSError) as error:
            say(f"error: {path}: {error}")
            failed += 1
    return 1 if failed else 0


def arguments(given):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Label clouds of points with a model on a Triton server.")
    parser.add_argument("cloud", nargs="+", help="files of points")
    parser.add_argument("--url", default="localhost:8001", help="the server's gRPC address (default: localhost:8001)")
    parser.add_argument("--model", default="@MODEL@", help="default: @MODEL@")
    parser.add_argument("--save", metavar="PATH", help="write the labelled cloud, .ply; for several a folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object a cloud")
    parser.add_argument("--timeout", metavar="S", type=float, default=300.0, help="for one answer (default: 300)")
    return parser.parse_args(given)


def main(given=None):
    """Run the command line; return the exit code."""
    try:
        return run(arguments(given))
    except (OSError, KitError, EffvisionError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 1


if __name__ == "__main__":
    sys.exit(main())
