"""From pictures to labels: preparation, frame clock, smoothing. Numpy only; the numbers are those of effvision, bit for bit.

Part of a kit written by effvision (Apache-2.0). Python 3.6 or newer. What differs between models is read from the metadata.
"""

import time
from functools import lru_cache

import numpy as np
from session import KitError

__all__ = ["Smoothing", "Stream", "resize_crop", "softmax"]


# -- from a picture to the network's input -------------------------------------------------------------------------------------


def resize_crop(image, short_side, size):
    """Resize (H, W, 3) uint8 so that the shorter side is `short_side` and cut out the centre `size`; None stretches to `size`.

    Equal bit for bit to Pillow's antialiased filter, which the network was trained behind: its 22-bit weights times 8-bit
    pixels are exact in float64. OpenCV's filters differ by tens of grey levels.
    """
    height, width = size
    frame_h, frame_w = image.shape[:2]
    if short_side is None:
        tall, wide = height, width
    elif frame_w < frame_h:
        tall, wide = int(short_side * frame_h / frame_w), short_side
    else:
        tall, wide = short_side, int(short_side * frame_w / frame_h)
    if height > tall or width > wide:
        raise KitError(f"cannot cut {height}x{width} out of a frame of {frame_h}x{frame_w}")
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    rows, columns = bands(frame_h, tall, top, top + height, 1), bands(frame_w, wide, left, left + width, 3)
    first, last = rows[0][0], max(band[1] for band in rows)
    middle = np.empty((last - first, width * 3))
    for start in range(first, last, 64):  # in pieces that stay in the processor's cache
        stop = min(start + 64, last)
        pixels = image[start:stop].astype(np.float64).reshape(stop - start, -1)
        for begin, end, out, weights in columns:
            middle[start - first : stop - first, out] = pixels[:, begin:end].dot(weights)
    middle = np.floor(middle + 0.5)  # Pillow keeps 8 bits between the passes
    result = np.empty((height, width * 3))
    for begin, end, out, weights in rows:
        result[out] = weights.T.dot(middle[begin - first : end - first])
    return (result + 0.5).astype(np.uint8).reshape(height, width, 3)


@lru_cache(maxsize=32)
def bands(inputs, outputs, start, stop, colours):
    """Cut the matrix that resizes `inputs` to `outputs`, columns start..stop, into dense blocks along its diagonal."""
    scale = float(inputs) / outputs
    support = max(scale, 1.0)
    center = (np.arange(start, stop) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support + 0.5).astype(np.int64), inputs)
    tap = np.arange(int((last - first).max()))[:, None]
    weights = np.maximum(1.0 - np.abs((tap + first - center + 0.5) * (1.0 / support)), 0.0)
    weights[tap >= last - first] = 0.0
    weights /= np.add.reduce(weights, axis=0)
    weights = np.floor(0.5 + weights * 2**22) / 2**22
    found = []
    for low in range(0, stop - start, 4):
        high = min(low + 4, stop - start)
        begin, end = int(first[low]), int(last[low:high].max())
        dense = np.zeros((end - begin, high - low))
        for column in range(low, high):
            taps, offset = int(last[column] - first[column]), int(first[column]) - begin
            dense[offset : offset + taps, column - low] = weights[:taps, column]
        block = np.ascontiguousarray(np.kron(dense, np.eye(colours)))
        found.append((begin * colours, end * colours, slice(low * colours, high * colours), block))
    return found


# -- what a stream remembers besides the network's state -----------------------------------------------------------------------


class FrameClock:
    """Chooses by timestamp the frames nearest to the rate the network was trained at; `fps` None: every frame."""

    def __init__(self, fps):
        self.period_s = None if fps is None else 1.0 / fps
        self.max_gap_s = max(1.0, 4 * (self.period_s or 0.0))
        self.last_s = self.due_s = None
        self.interval_s = 0.0

    def interruption(self, now_s):
        """Say why a frame at this time does not continue the stream, or None."""
        if self.last_s is None:
            return None
        if now_s < self.last_s - (self.period_s or 0.0):
            return "seek"
        return "gap" if now_s - self.last_s > self.max_gap_s else None

    def tick(self, now_s):
        """Take the time of a frame; say whether the network runs on it."""
        if self.last_s is not None and now_s > self.last_s:
            spacing = now_s - self.last_s
            self.interval_s += 0.1 * (spacing - self.interval_s) if self.interval_s else spacing
        first, self.last_s = self.last_s is None, now_s
        if self.period_s is None:
            return True
        if first or self.due_s is None:
            self.due_s = now_s + self.period_s
            return True
        if now_s + self.interval_s / 2 < self.due_s - 1e-9:  # the next frame will be nearer to the due time
            return False
        self.due_s += self.period_s
        if self.due_s < now_s:  # the camera is slower than the network's rate: do not catch up
            self.due_s = now_s + self.period_s
        return True


def softmax(logits):
    """Turn logits (K,) into scores that sum to 1."""
    weights = np.exp(logits - logits.max())
    return (weights / weights.sum()).astype(np.float32)


class Smoothing:
    """Steadies the labels; every field of `rule` is optional and comes from the model's metadata."""

    def __init__(self, rule):
        self.window = int(rule.get("window", 1))
        self.masked = set(rule.get("masked") or ())
        self.merged = dict((int(old), int(new)) for old, new in (rule.get("merged") or {}).items())
        self.confirm, self.start = bool(rule.get("confirm", False)), rule.get("start")
        self.threshold, self.rest, self.hold = float(rule.get("threshold", 0.0)), rule.get("rest"), rule.get("hold")
        unknown = set(rule) - {"window", "masked", "merged", "confirm", "start", "threshold", "rest", "hold"}
        if unknown:
            raise KitError(f"this runner is older than the model: it does not know the rule {sorted(unknown)}")
        self.logits = []
        self.labels = [] if self.start is None else [self.start, self.start]

    def update(self, logits):
        """Take the logits (K,) of one step; return the label's index and the averaged logits."""
        self.logits = ([*self.logits, logits.tolist()])[-self.window :]
        mean = np.asarray(self.logits, np.float32).mean(axis=0)
        best = int(mean.argmax())
        if best in self.masked and not self.labels:  # no label yet that could stay
            best = next(i for i in (-mean).argsort(kind="mergesort").tolist() if i not in self.masked)
        if self.threshold and not (len(self.logits) == self.window and softmax(mean)[best] >= self.threshold):
            best = self.unsure(best, softmax(mean))
        return self.decide(best), mean

    def unsure(self, best, scores):
        """Return the class to show while none is sure: the one shown if it holds, else the one at rest, else the last."""
        shown = self.labels[-1] if self.labels else None
        if self.hold is not None and shown is not None and scores[shown] >= self.hold:
            return shown
        if self.rest is not None:
            return self.rest
        return best if shown is None else shown

    def decide(self, index):
        """Apply what is masked, merged and to be confirmed; return the class to show."""
        history = self.labels
        if index in self.masked and history:
            index = history[-1]
        index = self.merged.get(index, index)
        if self.confirm and history and index != history[-1] and (len(history) < 2 or history[-1] != history[-2]):
            index = history[-1]
        self.labels = ([*history, index])[-2:]
        return index


class Stream:
    """One camera's answers: clock, smoothing, and the network with its state."""

    def __init__(self, network):
        block = network.block
        self.network, self.labels = network, block["labels"]
        self.options, self.size = block["options"], tuple(block["preprocess"]["size"])
        self.short_side = block["preprocess"].get("short_side")
        self.settle, self.source = int(self.options.get("settle", 0)), None
        self.reset(None)

    def reset(self, reason):
        """Forget everything seen; the next answer tells the reason."""
        self.network.reset()
        self.clock = FrameClock(self.options.get("fps"))
        self.smoothing = Smoothing(self.options.get("smoothing") or {})
        self.reason, self.logits, self.steps, self.updates, self.chosen = reason, None, 0, 0, 0

    def prepare(self, image):
        """(H, W, 3) uint8 RGB -> (1, 3, h, w) float32 RGB 0..255; the normalisation is inside the network."""
        small = resize_crop(image, self.short_side, self.size)
        return np.ascontiguousarray(small.transpose(2, 0, 1)[None], dtype=np.float32)

    def decide(self, logits):
        """Take the logits (K,) of one step; return the index of the label to show."""
        if self.steps == self.settle:  # what it said before it had settled is not averaged in
            self.smoothing.logits = []
        self.chosen, self.mean = self.smoothing.update(logits)
        self.steps += 1
        return self.chosen

    def update(self, image, timestamp, source):
        """Take one frame and answer: plain data. `fresh` is False where the network was not due yet."""
        started = time.perf_counter()
        reason = "source" if self.source not in (None, source) else self.clock.interruption(timestamp)
        if reason:
            self.reset(reason)
        self.source = source
        fresh = self.clock.tick(timestamp) or self.logits is None
        prepared = ran = time.perf_counter()
        if fresh:
            pixels = self.prepare(image)
            prepared = time.perf_counter()
            self.logits = np.array(self.network.step(pixels)[0], np.float32)
            ran = time.perf_counter()
            self.decide(self.logits)
        scores = softmax(self.mean)
        answer = {
            "index": self.updates,
            "timestamp": timestamp,
            "label": self.labels[self.chosen],
            "score": round(float(scores[self.chosen]), 6),
            "settled": self.steps > self.settle,
            "fresh": fresh,
            "reset_reason": self.reason,
            "prepare_ms": round((prepared - started) * 1e3, 3),
            "run_ms": round((ran - prepared) * 1e3, 3),
        }
        self.reason, self.updates = None, self.updates + 1
        return answer
