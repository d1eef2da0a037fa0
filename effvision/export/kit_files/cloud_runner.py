#!/usr/bin/env python3
"""Label clouds of points with this folder's model. Needs numpy and onnxruntime; Python 3.8 or newer.

    python3 runner.py --verify golden.npz                    is it right on this machine?
    python3 runner.py scan.ply --save coloured.ply           also .pcd .npy .npz .bin .txt .off .obj, and .las .laz with laspy

Part of a kit written by effvision (Apache-2.0); README.md beside it says more. Everything about the model is read from the
metadata inside model.onnx; `points/` holds what is done to a cloud before and after the network.
"""

import argparse
import json
import os
import sys
import time

import numpy as np
from points import EffvisionError, answer, first_call, open_cloud, parse_input, write_ply
from session import HERE, PROVIDERS, KitError, say, start, write

__all__ = ["main"]

# Allowed by --verify: the share of points with another label, and the root mean square of the logits' differences over that
# of the logits. A GPU rounds float32 products to 10 bits (TF32) as half precision does: both are "fp16".
TOLERANCES = {"fp32": (1e-3, 1e-4), "fp16": (2e-2, 2e-2)}


class Network:
    """The network in ONNX Runtime."""

    def __init__(self, path, asked, fp16):
        self.session, text, self.used = start(path, asked, fp16)
        self.block = self._read(text, path)
        self.inputs = parse_input(self.block["preprocess"])
        self.labels = self.block["labels"]
        half = "half" in self.block.get("precision", {})
        self.precision = "fp32" if self.used == "CPUExecutionProvider" and not half else "fp16"

    def _read(self, text, path):
        block = json.loads(text)
        if (block.get("schema"), block.get("task"), list(block.get("graphs", ()))) != (1, "segmentation", ["step"]):
            raise KitError(f"this runner is for schema 1, segmentation, one graph `step`; {path} says otherwise")
        return block

    def logits(self, feed):
        """Inputs by name -> logits."""
        try:
            return self.session.run(["logits"], feed)[0]
        except EffvisionError:
            raise
        except Exception as error:
            raise KitError(f"onnxruntime failed: {error}") from error

    def label(self, cloud, seed=0):
        """Return labels (P,) and scores (P,) of a cloud."""
        cloud.need(self.inputs.fields)
        return answer(self.block, self.inputs, self.inputs.arrays(cloud), self.logits, seed=seed)


# -- the commands ------------------------------------------------------------------------------------------------------


def run(network, options):
    """Label the clouds; return the exit code."""
    if options.save and len(options.cloud) > 1 and not os.path.isdir(options.save):
        raise KitError(f"--save takes a folder that exists for {len(options.cloud)} clouds; got {options.save}")
    failed = 0
    for path in options.cloud:
        try:
            target = options.save
            if target and os.path.isdir(target):
                target = os.path.join(target, os.path.splitext(os.path.basename(path))[0] + ".ply")
            if target and os.path.realpath(target) == os.path.realpath(path):
                raise KitError(f"--save would write over {path}, which is read: give another name")
            _one(network, path, target, options.json)
        except (EffvisionError, KitError, OSError) as error:
            say(f"error: {path}: {error}")
            failed += 1
    return 1 if failed else 0


def _one(network, path, target, as_json):
    cloud = open_cloud(path)
    started = time.perf_counter()
    labels, scores = network.label(cloud)
    spent_s = time.perf_counter() - started
    counts = np.bincount(labels, minlength=len(network.labels)).tolist()
    if as_json:
        found = {
            "source": path,
            "points": len(cloud),
            "counts": dict(zip(network.labels, counts)),
            "s": round(spent_s, 4),
        }
        write(sys.stdout, json.dumps(found))
    else:
        write(sys.stdout, f"{path}: {len(cloud):,} points in {spent_s:.1f} s on {network.used}")
        width = max(map(len, network.labels))
        for name, count in zip(network.labels, counts):
            write(sys.stdout, f"  {name:<{width}}  {count:>11,}  {100 * count / len(cloud):5.1f} %")
    if target:
        xyz = cloud.world() if cloud.origin.any() else cloud.xyz
        names = "\n".join(f"label {place} is {name}" for place, name in enumerate(network.labels))
        write_ply(
            target,
            xyz,
            rgb=_colours(network)[labels],
            comment=names,
            label=labels.astype(_small(network)),
            score=scores,
        )
        say(f"wrote {target}")


def _colours(network):
    with open(os.path.join(HERE, "model.json"), encoding="utf-8") as file:
        return np.array(json.load(file)["colours"], np.uint8)


def _small(network):
    return np.uint8 if len(network.labels) <= 256 else np.uint16


def verify(network, path):
    """Compare chunks and labels with what effvision recorded; return the exit code."""
    try:
        with np.load(path, allow_pickle=False) as file:
            golden = {name: file[name] for name in file.files}
        points, wanted, weights = golden["points"], golden["logits"], str(golden["weights"])
        fields = {name[6:]: golden[name] for name in golden if name.startswith("field_")}
        labels = golden["labels"]
        cloud = open_cloud({"xyz": golden["xyz"], **fields})
    except (EffvisionError, OSError, ValueError, KeyError) as error:
        raise KitError(f"{path} is no golden file or is damaged: {error}") from error
    if weights != network.block["weights_sha256"]:
        raise KitError(f"{path} was recorded from other weights than the model's: copy the whole kit again")
    cut, feed = first_call(network.block, network.inputs, network.inputs.arrays(cloud))
    same = cut.shape == points.shape and float(np.abs(cut - points).max()) <= 1e-5
    got = np.asarray(network.logits(feed)[: len(wanted)], np.float64)
    relative = float(np.sqrt(((got - wanted) ** 2).mean() / (wanted.astype(np.float64) ** 2).mean()))
    found, _ = network.label(cloud)
    others = float((found != labels).mean())
    most, rms = TOLERANCES[network.precision]
    checks = (
        (same, f"preparation: {points.shape[0]} channels of {points.shape[1]} points {'equal' if same else 'differ'}"),
        (relative <= rms, f"network: relative rms {relative:.1e} (allowed {rms:.0e}, {network.precision})"),
        (others <= most, f"labels: {others:.2%} of {len(labels):,} points differ (allowed {most:.1%})"),
    )
    for good, text in checks:
        say("{}  {}".format("ok " if good else "BAD", text))
    good = all(good for good, _ in checks)
    say(f"verified on {network.used}" if good else f"NOT VERIFIED on {network.used}")
    return 0 if good else 1


def arguments(given):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Label clouds of points with this folder's model.")
    parser.add_argument("cloud", nargs="*", help="files of points")
    parser.add_argument("--save", metavar="PATH", help="write the labelled cloud, .ply; for several a folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object a cloud")
    parser.add_argument("--verify", metavar="golden.npz", help="compare with what effvision recorded; exit code 0 or 1")
    parser.add_argument("--provider", choices=[short for short, _ in PROVIDERS], help="default: the first that works")
    parser.add_argument("--fp32", action="store_true", help="TensorRT through ONNX Runtime: no half precision")
    parser.add_argument("--model", default=os.path.join(HERE, "model.onnx"), help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if bool(options.cloud) == bool(options.verify):
        parser.error("give files of points, or --verify golden.npz")
    return options


def main(given=None):
    """Run the command line; return the exit code."""
    options = arguments(given)
    try:
        network = Network(options.model, options.provider, not options.fp32)
        return verify(network, options.verify) if options.verify else run(network, options)
    except (OSError, KitError, EffvisionError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 1


if __name__ == "__main__":
    sys.exit(main())
