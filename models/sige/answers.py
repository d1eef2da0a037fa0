"""What SIGE answers for each of many files: a label map, or a list of them, each an edit of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvision.answers import Answer, Answers, Tell
from effvision.errors import SourceError
from effvision.models.sige.label_maps import open_label_maps
from effvision.results import Columns

if TYPE_CHECKING:
    from effvision.models.sige.predictor import SIGE

__all__ = ["COLUMNS", "LIST_SUFFIX", "EditAnswers"]

COLUMNS: Columns = {
    "edits": [{"computed_fraction": "float32", "changed_fraction": "float32", "macs": "int64", "ms": "float64"}],
    "size": ["int64"],
}
LIST_SUFFIX = ".txt"
"""Of lists of label maps."""


class EditAnswers(Answers):
    """The picture of a label map; of a folder of label maps, or of a list (`.txt`, a path a line), that of the last one.

    The row holds a record for each label map: the share of a full pass and of the picture that was computed, and milliseconds.
    """

    counts = "maps"
    saves = (".png", ".jpg")

    def __init__(self, model: SIGE, *, mode: str) -> None:
        super().__init__(model)
        self.columns = COLUMNS
        self._mode = mode
        model.initial_memory(mode=mode)  # refuses what is no mode

    def __call__(self, path: Path, *, name: str, save: Path | None, tell: Tell) -> Answer:
        """Draw one picture and edit it; see `Answers`."""
        session = self.model.session(mode=self._mode)
        edits: list[dict[str, Any]] = []
        result: Any = None
        for labels in _maps(path):
            result = session.update(labels)
            tell(len(edits) + 1)
            edits.append(
                {
                    "computed_fraction": result.computed_fraction,
                    "changed_fraction": result.changed_fraction,
                    "macs": int(result.macs),
                    "ms": result.timing.total_ms,
                }
            )
        if result is None:
            raise SourceError(f"{path} names no label map")
        if save is not None:
            result.save(save)
        return Answer({"edits": edits, "size": list(result.image.shape[:2])}, len(edits))


def _maps(path: Path) -> Iterator[Any]:
    if path.suffix.lower() != LIST_SUFFIX or path.is_dir():
        yield from open_label_maps(path)
        return
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise SourceError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    yield from (path.parent / line.strip() for line in lines if line.strip())
