"""Frames in from cameras, addresses, files, arrays and iterators, and out into video files. OpenCV is imported at first use."""

from effvision.sources.arrays import as_frame
from effvision.sources.base import Frame, Source
from effvision.sources.live import LiveSource
from effvision.sources.opening import open_source
from effvision.sources.together import Together
from effvision.sources.writer import VideoWriter

__all__ = ["Frame", "LiveSource", "Source", "Together", "VideoWriter", "as_frame", "open_source"]
