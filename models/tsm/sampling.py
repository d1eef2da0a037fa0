"""Which frames of a video make a clip, exactly as the reference samples them when testing. All indices count from 0."""

from __future__ import annotations

from effvision.errors import InputError

__all__ = ["dense_indices", "twice_indices", "uniform_indices"]


def uniform_indices(count: int, frames: int) -> list[int]:
    """One frame from the middle of each of `frames` equal parts (TSN; "TSM", ICCV 2019, section 4.1).

    Args:
        count: Frames of the video, 1 or more; a video shorter than `frames` repeats some.
        frames: T.

    Raises:
        InputError: either is below 1.
    """
    tick = _tick(count, frames)
    return [int(tick / 2 + tick * index) for index in range(frames)]


def twice_indices(count: int, frames: int) -> list[list[int]]:
    """Two clips: the middles and the beginnings of the equal parts (the reference's `twice_sample`)."""
    tick = _tick(count, frames)
    return [uniform_indices(count, frames), [int(tick * index) for index in range(frames)]]


def dense_indices(count: int, frames: int, *, clips: int = 10) -> list[list[int]]:
    """`clips` clips of stride 64 // T spread over the video, wrapping at its end (the reference's dense sampling)."""
    _tick(count, frames)
    last = max(1, count - 63) - 1
    starts = [int(last * index / (clips - 1)) if clips > 1 else 0 for index in range(clips)]
    return [[(start + index * (64 // frames)) % count for index in range(frames)] for start in starts]


def _tick(count: int, frames: int) -> float:
    if count < 1 or frames < 1:
        raise InputError(f"sampling needs at least one frame of video and of clip; got count={count}, frames={frames}")
    return count / frames
