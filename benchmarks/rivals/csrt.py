"""OpenCV's CSRT on a sequence: run by tracking.py in the rivals' environment, one round for each line it is sent.

Arguments: folder of pictures, then x y width height of the object in the first one. Each round tracks it through all pictures
from the start and answers a line of JSON: median milliseconds of an update, and the boxes of the round.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import cv2


def track(frames, box):
    tracker = cv2.TrackerCSRT.create()
    tracker.init(frames[0], box)
    times, boxes = [], [list(box)]
    for frame in frames[1:]:
        started = time.perf_counter()
        found, now = tracker.update(frame)
        times.append(time.perf_counter() - started)
        boxes.append([float(side) for side in now] if found else boxes[-1])
    return {"update_ms": 1e3 * statistics.median(times), "boxes": boxes, "opencv": cv2.__version__}


def main():
    cv2.setNumThreads(2)
    folder, *box = sys.argv[1:]
    frames = [cv2.imread(str(path)) for path in sorted(Path(folder).iterdir())]
    print(json.dumps({"ready": len(frames)}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(track(frames, tuple(int(side) for side in box))), flush=True)


if __name__ == "__main__":
    main()
