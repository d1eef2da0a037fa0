"""Frames in from cameras, addresses, files, arrays and iterators, and out into video files; clouds of points in and out.

OpenCV, laspy and their like are imported at first use.
"""

from effvision.clouds import Cloud
from effvision.sources.arrays import as_frame
from effvision.sources.base import Frame, Source
from effvision.sources.cloud_writer import write_ply
from effvision.sources.clouds import open_cloud
from effvision.sources.live import LiveSource
from effvision.sources.opening import open_source
from effvision.sources.together import Together
from effvision.sources.writer import VideoWriter

__all__ = [
    "Cloud",
    "Frame",
    "LiveSource",
    "Source",
    "Together",
    "VideoWriter",
    "as_frame",
    "open_cloud",
    "open_source",
    "write_ply",
]
