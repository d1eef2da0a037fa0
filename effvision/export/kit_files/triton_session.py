"""The model on a Triton server: connected over gRPC, its state kept there; words for people.

Written by effvision (Apache-2.0). Python 3.8 or newer, numpy and tritonclient[grpc].
"""

import json
import random
import sys

import numpy as np

__all__ = ["KitError", "Network", "SequenceLost", "say", "write"]

KINDS = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32", "uint8": "UINT8", "bool": "BOOL"}
LOST = "must specify the START flag"  # Triton's words for a sequence it does not know (any more)


class KitError(RuntimeError):
    """Something that a user can mend; the message says how."""


class SequenceLost(RuntimeError):
    """The server has dropped this stream's state: it was silent for too long, or the server was started anew."""


def say(text):
    """Print to standard error."""
    write(sys.stderr, text)


def write(stream, text):
    """Print a line, whole; a terminal without UTF-8 gets question marks instead of an exception."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()


class Network:
    """One model of a server. Not to be shared by threads, as Triton's client is not.

    `block` is what the model says of itself, told by the server: labels, sizes, frame rate, the rule that steadies labels.
    """

    def __init__(self, url, model, timeout_s):
        try:
            import tritonclient.grpc as triton
            from tritonclient.utils import InferenceServerException
        except ImportError as error:
            raise KitError(f"{error}: pip install 'tritonclient[grpc]'") from error
        self.triton, self.failure = triton, InferenceServerException
        self.url, self.model, self.timeout_s = url, model, timeout_s
        try:
            self.client = triton.InferenceServerClient(url)
            config = self.client.get_model_config(model, client_timeout=timeout_s).config
        except InferenceServerException as error:
            raise KitError(f"{url} does not serve {model}: {error.message()}") from error
        self.streaming = config.WhichOneof("scheduling_choice") == "sequence_batching"
        text = config.parameters["effvision"].string_value
        try:
            self.block = json.loads(text)
            fits = (self.block["schema"], list(self.block["graphs"])) == (1, ["step"])
            self.graph = self.block["graphs"].get("step")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KitError(f"{model} at {url} has no description by effvision in its config.pbtxt") from error
        if not fits:
            raise KitError(f"this client is for schema 1, one graph `step`; {model} at {url} says otherwise")
        self.used = f"{model} at {url}"
        self.sequence = (
            random.SystemRandom().getrandbits(63) | 1
        )  # 0 means none; told apart from all other clients' by chance
        self.reset()

    def reset(self):
        """Begin a stream: the next step starts the sequence, and with it the state, anew."""
        self.begun, self.last = False, None

    def step(self, pixels):
        """Advance by one frame; return the first output (1, K)."""
        first = self.graph["inputs"][0]["name"]
        found = self._ask({first: pixels}, sequence_id=self.sequence, sequence_start=not self.begun)
        self.begun, self.last = True, pixels
        return found

    def end(self):
        """Say that no frame follows, so that the server may forget this stream: the last one goes there again, marked."""
        if self.begun:
            first = self.graph["inputs"][0]["name"]
            self._ask({first: self.last}, sequence_id=self.sequence, sequence_end=True)
            self.reset()

    def logits(self, feed):
        """Inputs by name -> the first output, of a model that keeps nothing."""
        return self._ask(feed)

    def _ask(self, feed, **sequence):
        inputs = []
        for name, array in feed.items():
            array = np.ascontiguousarray(array)
            one = self.triton.InferInput(name, list(array.shape), KINDS[array.dtype.name])
            one.set_data_from_numpy(array)
            inputs.append(one)
        output = self.graph["outputs"][0]["name"]
        wanted = [self.triton.InferRequestedOutput(output)]
        try:
            answer = self.client.infer(self.model, inputs, outputs=wanted, client_timeout=self.timeout_s, **sequence)
        except self.failure as error:
            if LOST in str(error.message()):
                raise SequenceLost(error.message()) from error
            raise KitError(f"{self.used}: {error.message()}") from error
        return answer.as_numpy(output)
