"""Every error this package raises on purpose.

    EffvisionError
    |-- InputError (ValueError)              a picture, clip or argument that cannot be used
    |   |-- ShapeError
    |   |-- DTypeError (TypeError)
    |   `-- RangeError
    |-- SourceError (OSError)                a file, folder or address that cannot be read
    |-- CardError (LookupError)              a name that is no card
    |-- CheckpointError (ValueError)         weights that cannot be read, trusted or fitted to the network
    |-- DownloadError (OSError)              weights that are not here and could not be fetched
    |-- StateError (ValueError)              a state or session of another network, size or version
    |-- StreamingError (ValueError)          a network that needs the whole clip was asked to stream
    |-- ModelFileError (ValueError)          an ONNX file that is damaged, foreign or of another family
    |-- DetectorError (ValueError)           a detector that answered something that is no boxes
    |-- ExportError (RuntimeError)           an export that was refused; no file was written
    |-- RuntimeFailure (RuntimeError)        a back end that failed while running
    `-- MissingDependencyError (ImportError) an optional package or system library that is absent

A message says what was given, what is wrong with it and what to do. Each class also derives from the built-in
exception a caller would expect, so `except ValueError` keeps working.
"""

from __future__ import annotations

__all__ = [
    "CardError",
    "CheckpointError",
    "DTypeError",
    "DetectorError",
    "DownloadError",
    "EffvisionError",
    "ExportError",
    "InputError",
    "MissingDependencyError",
    "ModelFileError",
    "RangeError",
    "RuntimeFailure",
    "ShapeError",
    "SourceError",
    "StateError",
    "StreamingError",
]


class EffvisionError(Exception):
    """Root of every error raised on purpose by this package."""


class InputError(EffvisionError, ValueError):
    """A picture, clip, option or argument that cannot be used."""


class ShapeError(InputError):
    """An array whose number of axes or whose size does not fit."""


class DTypeError(InputError, TypeError):
    """An array or argument of the wrong type."""


class RangeError(InputError):
    """Values outside the stated range, NaN and infinity included."""


class SourceError(EffvisionError, OSError):
    """A file, folder or address that is missing, unreadable or not of the expected kind."""


class CardError(EffvisionError, LookupError):
    """A name that is no card, or a card of another family."""


class CheckpointError(EffvisionError, ValueError):
    """Weights that cannot be read safely or do not fit the network."""


class DownloadError(EffvisionError, OSError):
    """Weights that are not on this machine and could not be fetched."""


class StateError(EffvisionError, ValueError):
    """A state or a saved session that belongs to another network, size or version."""


class StreamingError(EffvisionError, ValueError):
    """A network that needs the whole clip was asked to work frame by frame."""


class ModelFileError(EffvisionError, ValueError):
    """An exported file that is damaged, not ours, or of another family."""


class DetectorError(EffvisionError, ValueError):
    """A detector that answered something that is no boxes, or boxes that cannot belong to the frame it was given."""


class ExportError(EffvisionError, RuntimeError):
    """An export that was refused or failed its check; nothing was written."""


class RuntimeFailure(EffvisionError, RuntimeError):
    """A back end that failed while running a graph."""


class MissingDependencyError(EffvisionError, ImportError):
    """An optional package, or a system library it needs, is absent."""
