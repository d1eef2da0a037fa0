"""What every runner of a kit needs: the model opened in ONNX Runtime, with TensorRT, CUDA or the processor; words for people.

Part of a kit written by effvision (Apache-2.0). Python 3.6 or newer.
"""

import hashlib
import json
import os
import sys

__all__ = ["HERE", "PROVIDERS", "KitError", "say", "start", "write"]

HERE = os.path.dirname(os.path.abspath(__file__))
PROVIDERS = (  # in the order they are tried
    ("tensorrt", "TensorrtExecutionProvider"),
    ("cuda", "CUDAExecutionProvider"),
    ("cpu", "CPUExecutionProvider"),
)


class KitError(RuntimeError):
    """Something that a user can mend; the message says how."""


def say(text):
    """Print to standard error."""
    write(sys.stderr, text)


def write(stream, text):
    """Print a line; a terminal without UTF-8 gets question marks instead of an exception."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()


def kit_precision():
    """Return what model.json says of the precision, before the model is open; nothing where there is none."""
    try:
        with open(os.path.join(HERE, "model.json"), encoding="utf-8") as file:
            return json.load(file)["effvision"].get("precision", {})
    except (OSError, ValueError, KeyError):
        return {}


def sha256(path):
    """Return the SHA-256 of a file as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def for_cpu():
    """Whether the model was made for a processor: int8 in the form that GPUs do not take."""
    return kit_precision().get("int8", {}).get("form") == "cpu"


def start(path, asked, fp16):
    """Open a model with `asked`, or the first provider that works; say which.

    Returns the session, the text of the model's description, and the provider that is used.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise KitError(f"onnxruntime cannot be imported ({error}); README.md says which to install") from error
    offered = onnxruntime.get_available_providers()
    order = [(short, name) for short, name in PROVIDERS if name in offered]
    say("onnxruntime {} offers: {}".format(onnxruntime.__version__, ", ".join(offered)))
    if asked and asked not in [short for short, _ in order]:
        raise KitError(f"this onnxruntime has no {asked}; README.md says which one to install")
    if for_cpu():
        if asked not in (None, "cpu"):
            raise KitError(f"{asked} was asked for, but this int8 model is for processors: write a kit for a board")
        order = [pair for pair in order if pair[0] == "cpu"]
    if asked:  # the ones after it stay, for nodes it does not take
        order = order[[short for short, _ in order].index(asked) :]
    session = opened(onnxruntime, path, order, fp16)
    text = session.get_modelmeta().custom_metadata_map.get("effvision")
    if text is None:
        raise KitError(f"{path} has no `effvision` metadata: it was not written by effvision")
    used = session.get_providers()[0]
    say("used: {} ({})".format(used, ", then ".join(session.get_providers())))
    if asked and used != dict(PROVIDERS)[asked]:
        raise KitError(f"{asked} was asked for and could not be started; onnxruntime's messages say why")
    if used not in (order[0][1], "CPUExecutionProvider"):
        say(f"WARNING: {order[0][1]} is offered but could not be started; onnxruntime's messages say why")
    if used == "CPUExecutionProvider" and asked != "cpu" and not for_cpu():
        say("*" * 78)
        say("WARNING: running on the CPU, not on a GPU: much slower. Either this onnxruntime was built")
        say("without CUDA and TensorRT, or its libraries do not fit this JetPack: see README.md.")
        say("*" * 78)
    return session, text, used


def opened(onnxruntime, path, order, fp16):
    """Open it with the providers in this order."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # a folder for each model: onnxruntime tells engines apart by the graph's names, and would run one of other weights
    cache = os.path.join(HERE, "engine_cache", sha256(path)[:12])
    tensorrt = {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": cache,
        "trt_fp16_enable": str(bool(fp16)),
        "trt_int8_enable": str("int8" in kit_precision()),
    }
    if order[0][0] == "tensorrt" and "int8" in kit_precision():
        # its optimiser would turn weights and their scales into a form that TensorRT 8 does not read
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    chosen = [(name, tensorrt) if short == "tensorrt" else name for short, name in order]
    if order[0][0] == "tensorrt":
        say("TensorRT builds its engine at the first start: minutes; it is kept in engine_cache/")
        if not os.path.isdir(cache):
            os.makedirs(cache)
    try:
        return onnxruntime.InferenceSession(path, options, providers=chosen)
    except Exception as error:  # onnxruntime's kinds of error have no common base
        raise KitError(f"onnxruntime {onnxruntime.__version__} cannot open {path}: {error}") from error
