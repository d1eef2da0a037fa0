"""Frames in from files, folders, arrays and iterators, and out into video files. OpenCV is imported at first use."""

from effvision.sources.arrays import as_frame
from effvision.sources.base import Frame, Source
from effvision.sources.opening import open_source
from effvision.sources.writer import VideoWriter

__all__ = ["Frame", "Source", "VideoWriter", "as_frame", "open_source"]
