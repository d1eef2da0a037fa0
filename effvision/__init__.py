"""Efficient live inference: models that keep what they already know about their input.

    from effvision import TSM

    model = TSM.from_pretrained("tsm-mobilenetv2-motion")
    for result in model.stream("clip.mp4"):
        print(result.label, result.score)

Names are loaded when first used (PEP 562), so that importing the package takes milliseconds and no heavy library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effvision.cards import list_cards as list_cards
    from effvision.clouds import Cloud as Cloud
    from effvision.detections import Detections as Detections
    from effvision.detectors import OnnxDetector as OnnxDetector
    from effvision.edits import Edit as Edit
    from effvision.errors import EffvisionError as EffvisionError
    from effvision.models.minkunet.predictor import SPVCNN as SPVCNN
    from effvision.models.minkunet.predictor import MinkUNet as MinkUNet
    from effvision.models.patchnet.accelerate import accelerate as accelerate
    from effvision.models.patchnet.predictor import PatchNet as PatchNet
    from effvision.models.pvcnn.predictor import PVCNN as PVCNN
    from effvision.models.sige.predictor import SIGE as SIGE
    from effvision.models.tsm.predictor import TSM as TSM
    from effvision.predictor import Predictor as Predictor
    from effvision.results import Classification as Classification
    from effvision.results import Result as Result
    from effvision.results import Segmentation as Segmentation
    from effvision.results import Timing as Timing
    from effvision.session import Session as Session
    from effvision.sources.clouds import open_cloud as open_cloud
    from effvision.state import State as State
    from effvision.tracks import Tracks as Tracks

__version__ = "0.1.0"

# Where each public name lives. A new family adds one line here and one above; tests/test_imports.py compares the two.
_EXPORTS = {
    "PVCNN": "effvision.models.pvcnn.predictor",
    "SIGE": "effvision.models.sige.predictor",
    "SPVCNN": "effvision.models.minkunet.predictor",
    "TSM": "effvision.models.tsm.predictor",
    "Classification": "effvision.results",
    "Cloud": "effvision.clouds",
    "Detections": "effvision.detections",
    "Edit": "effvision.edits",
    "EffvisionError": "effvision.errors",
    "MinkUNet": "effvision.models.minkunet.predictor",
    "OnnxDetector": "effvision.detectors",
    "PatchNet": "effvision.models.patchnet.predictor",
    "Predictor": "effvision.predictor",
    "Result": "effvision.results",
    "Segmentation": "effvision.results",
    "Session": "effvision.session",
    "State": "effvision.state",
    "Timing": "effvision.results",
    "Tracks": "effvision.tracks",
    "accelerate": "effvision.models.patchnet.accelerate",
    "list_cards": "effvision.cards",
    "open_cloud": "effvision.sources.clouds",
}

__all__ = [
    "PVCNN",
    "SIGE",
    "SPVCNN",
    "TSM",
    "Classification",
    "Cloud",
    "Detections",
    "Edit",
    "EffvisionError",
    "MinkUNet",
    "OnnxDetector",
    "PatchNet",
    "Predictor",
    "Result",
    "Segmentation",
    "Session",
    "State",
    "Timing",
    "Tracks",
    "__version__",
    "accelerate",
    "list_cards",
    "open_cloud",
]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
