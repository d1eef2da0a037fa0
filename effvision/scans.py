"""What predictors of point clouds share: clouds in, a class for every point out, nothing remembered between clouds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from effvision.answers import CloudAnswers
from effvision.cards import Card
from effvision.clouds import Cloud
from effvision.errors import DTypeError, InputError, StateError
from effvision.predictor import Memory, Predictor
from effvision.results import Result, Segmentation
from effvision.sources.cloud_stream import open_clouds, refuse_frames
from effvision.sources.clouds import CLOUD_SUFFIXES, open_cloud
from effvision.state import Array

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CloudMemory", "CloudPredictor"]

_CHECKED_CLOUDS = 4
_MOST_SEED = 2**63


@dataclass
class CloudMemory(Memory):
    """Options of a session; between clouds nothing is remembered.

    Attributes:
        seed: Of everything random.
        progress: Whether to show a bar.
        cloud: The one in work, between `prepare` and `finish`; not saved.
    """

    seed: int = 0
    progress: bool = False
    cloud: Cloud | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` takes back."""
        return {name: value for name, value in vars(self).items() if name != "cloud"}


class CloudPredictor(Predictor):
    """Labels every point of a cloud.

    `session` and `stream` take these options:
        seed: Of the order in which points meet each other; the same seed gives the same labels. 0 or more.
        progress: Show a bar on standard error while a cloud is labelled.

    `prepare` gives arrays of the whole cloud, points first, `program` turns them into `labels` (P,) and `scores` (P,).
    """

    sample_suffix: ClassVar[str] = ".ply"
    takes: ClassVar[Literal["frames", "clouds"]] = "clouds"
    reads: ClassVar[tuple[str, ...]] = CLOUD_SUFFIXES
    joins: ClassVar[bool] = False

    watch: Callable[[int, int], None] | None = None
    """Told how much of how much is done, nothing at first, while a cloud is labelled; see `watched`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of their numbers."""
        return self.metadata.labels

    def watched(self, watch: Callable[[int, int], None]) -> Self:
        """Return the same model, its network shared, that tells `watch` how much of how much of a cloud is done.

        It is told before the first part and after each; what it raises ends the labelling.
        """
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other.watch = watch
        return other

    def predict(self, points: Any, *, progress: bool = False, seed: int = 0) -> Segmentation:
        """Label every point of one cloud.

        Args:
            points: What `effvision.open_cloud` takes: a path, an array (P, 3) or wider, a dict or `.npz` with `xyz` and fields,
                a tensor, an Open3D cloud. Metres.
            progress: Show a bar on standard error.
            seed: The same seed gives the same labels.

        Returns:
            Labels and scores in the order of the points, with the cloud and the milliseconds of each stage.

        Raises:
            SourceError: a file that cannot be read.
            InputError: points that cannot be used, or fields that are missing.
        """
        return cast(Segmentation, self.session(seed=seed, progress=progress).update(points))

    def stream(self, source: Any, *, images: bool = True, **options: Any) -> Iterator[Result]:
        """Return an iterator with one result per cloud of a folder, a pattern, a list or an iterator of clouds.

        Args:
            source: What `effvision.sources.cloud_stream.open_clouds` takes.
            images: Keep the cloud in the result, so that it can be drawn and saved; switch off before collecting many.
            **options: `seed` and `progress`.

        Raises:
            SourceError: nothing is there, or no file of points among it.
            InputError: a camera, a video or pictures.
        """
        session = self.session(**options)
        clouds = open_clouds(source)

        def results() -> Iterator[Result]:
            with closing(clouds):
                for cloud in clouds:
                    result = session.update(cloud)
                    yield result if images else result.replace(cloud=None)

        return results()

    def for_files(self, *, columns: Any = None, drop_nonfinite: bool = False, seed: int = 0) -> CloudAnswers:
        """Return what labels one file after the other; see `Predictor.for_files`.

        Args:
            columns: Of files without names, as in `effvision.open_cloud`.
            drop_nonfinite: As there.
            seed: As in `predict`.
        """
        return CloudAnswers(self, Segmentation.columns, seed=seed, columns=columns, drop_nonfinite=drop_nonfinite)

    def initial_memory(  # type: ignore[override]  # named options instead of the template's **options
        self, *, seed: int = 0, progress: bool = False
    ) -> CloudMemory:
        """Return the memory of a session; options as in the class's description.

        Raises:
            InputError: an option is out of range.
        """
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < _MOST_SEED:
            raise InputError(f"`seed` must be a whole number, 0 or more; got {seed!r:.60}")
        if not isinstance(progress, bool):
            raise DTypeError(f"`progress` must be True or False; got {progress!r:.60}")
        return CloudMemory(seed=int(seed), progress=progress)

    def restore_memory(self, data: Mapping[str, Any], **options: Any) -> CloudMemory:
        """Rebuild a saved memory; options given anew are not taken, a saved session keeps its own."""
        if options:
            raise InputError(f"a saved session keeps its own options; leave out {', '.join(sorted(options))}")
        reason, updates = data.get("reset_reason"), data.get("updates")
        try:
            memory = self.initial_memory(seed=data["seed"], progress=data["progress"])
        except (KeyError, InputError) as error:
            raise StateError(f"the saved session's memory is damaged: {str(dict(data))[:200]}") from error
        if isinstance(updates, bool) or not isinstance(updates, int) or not isinstance(reason, (str, type(None))):
            raise StateError(f"the saved session's memory is damaged: {str(dict(data))[:200]}")
        memory.updates, memory.reset_reason = updates, reason
        return memory

    def prepare(self, inputs: Mapping[str, Any], memory: Memory) -> dict[str, np.ndarray]:
        """Read the cloud, check its fields and make what the network's columns are cut from."""
        held = cast(CloudMemory, memory)
        x = inputs["x"]
        refuse_frames(x)
        cloud = open_cloud(x)
        arrays = self.prepare_cloud(cloud)
        held.cloud = cloud
        return {**arrays, "seed": np.array([held.seed]), "progress": np.array([held.progress])}

    @classmethod
    @abstractmethod
    def fields_of(cls, card: Card) -> tuple[str, ...]:
        """Return the fields a cloud must have for a card, besides its coordinates, without loading the model."""

    @abstractmethod
    def prepare_cloud(self, cloud: Cloud) -> dict[str, np.ndarray]:
        """Return named arrays, points first, of a cloud.

        Raises:
            InputError: a field is missing or cannot be used.
        """

    def finish(self, arrays: Mapping[str, Array] | None, memory: Memory) -> tuple[Segmentation, CloudMemory]:
        """Make the result; the cloud is let go."""
        held = cast(CloudMemory, memory)
        found = cast(Mapping[str, Array], arrays)
        cloud, held.cloud = held.cloud, None
        return Segmentation(found["labels"], found["scores"], self.labels, cloud=cloud), held

    def real_inputs(self, source: Any) -> list[Cloud]:
        """Read the first clouds of a source, for `example_inputs`."""
        with open_clouds(source) as clouds:
            return list(islice(clouds, _CHECKED_CLOUDS))
