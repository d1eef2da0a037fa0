"""Several streams at once give what each gives alone, whatever the runtime, and whoever comes to an end first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effvision import TSM
from effvision.errors import DTypeError, EffvisionError, InputError, SourceError
from effvision.models.tsm.clips import render_clip
from effvision.sources import Frame, Source, VideoWriter, open_source
from refusals import refused, tiny_model

CARD = "tsm-mobilenetv2-motion"
MOTIONS = ("left", "right", "up", "clockwise", "shake")


@pytest.fixture(scope="module")
def tiny() -> TSM:
    return tiny_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of different lengths and rates."""
    made = tmp_path_factory.mktemp("many")
    for name, frames, fps in (("a.mp4", 40, 24.0), ("b.avi", 14, 12.0), ("c.mp4", 27, 30.0)):
        with VideoWriter(made / name, fps=fps, size=(120, 160)) as video:
            for frame in render_clip(MOTIONS[ord(name[0]) - ord("a")], frames=frames, size=(120, 160), fps=fps, seed=1):
                video.write(frame)
    return made


def clip(motion: int, length: int) -> np.ndarray:
    return np.stack(render_clip(MOTIONS[motion], frames=length, size=(96, 128), fps=12.0, seed=motion))


def grouped(results: Any, sources: int) -> list[list[Any]]:
    found: list[list[Any]] = [[] for _ in range(sources)]
    for place, result in results:
        found[place].append(result)
    return found


def same(found: Sequence[Any], alone: Sequence[Any]) -> None:
    """Equal in all that is plain, and to float rounding in what the network gave."""
    assert len(found) == len(alone) > 0
    largest = max(float(np.abs(one.logits).max()) for one in alone)
    for one, other in zip(found, alone, strict=True):
        plain = ("label", "settled", "index", "timestamp", "fresh", "reset_reason", "dropped")
        assert [getattr(one, name) for name in plain] == [getattr(other, name) for name in plain]
        np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=1e-4 * largest)
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-4)


class Opened(Source):
    """A source that says whether it was closed, and fails after its frames if it is told to."""

    def __init__(self, frames: int, *, error: Exception | None = None) -> None:
        super().__init__("opened", fps=None, count=frames)
        self.error = error

    @property
    def closed(self) -> bool:
        return self._closed

    def _frames(self) -> Iterator[Frame]:
        for index in range(self.count or 0):
            yield Frame(np.full((24, 32, 3), index, np.uint8), index, index / 10, self.name)
        if self.error is not None:
            raise self.error


# -- equal to single streams ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_the_bundled_model_gives_every_stream_what_it_gets_alone(folder: Path, runtime: Any) -> None:
    """Files of 24, 12 and 30 frames a second and an array without a clock, that end one after the other."""
    pytest.importorskip("onnxruntime" if runtime == "onnx" else "torch")
    model = TSM.from_pretrained(CARD, runtime=runtime)
    sources = [folder / "a.mp4", clip(3, 9), folder / "b.avi", folder / "c.mp4"]
    found = grouped(model.stream_many(sources), len(sources))
    assert [len(results) for results in found] == [40, 9, 14, 27]
    for results, source in zip(found, sources, strict=True):
        same(results, list(model.stream(source)))
    assert not all(result.fresh for result in found[0]), "frames at twice the trained rate are not all due"
    assert found[0][7].image.shape == (120, 160, 3)
    assert len({tuple(results[-1].logits.round(3)) for results in found}) == 4


def test_options_are_those_of_every_session_and_pictures_can_be_left_out(tiny: TSM, folder: Path) -> None:
    sources = [folder / "a.mp4", folder / "b.avi"]
    options: dict[str, Any] = {"fps": None, "smoothing": 3}
    found = grouped(tiny.stream_many(sources, images=False, **options), 2)
    for results, source in zip(found, sources, strict=True):
        same(results, list(tiny.stream(source, **options)))
        assert all(result.fresh and result.image is None for result in results)


def test_one_source_is_a_stream(tiny: TSM) -> None:
    frames = clip(0, 6)
    same(grouped(tiny.stream_many([frames]), 1)[0], list(tiny.stream(frames)))


def test_a_folder_of_videos_begins_anew_without_disturbing_its_neighbour(tiny: TSM, folder: Path) -> None:
    found = grouped(tiny.stream_many([folder, clip(1, 60)]), 2)
    same(found[0], list(tiny.stream(folder)))
    same(found[1], list(tiny.stream(clip(1, 60))))
    assert [result.reset_reason for result in found[0]].count("source") == 2


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_a_file_exported_for_a_fixed_number_of_streams_takes_any_number(tiny: TSM, tmp_path: Path, batch: int) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    model = TSM.from_pretrained(tiny.export(tmp_path / "fixed.onnx", batch=batch).path)
    sources = [clip(0, 7), clip(1, 4), clip(2, 7)]
    found = grouped(model.stream_many(sources), 3)
    for results, source in zip(found, sources, strict=True):
        same(results, list(tiny.stream(source)))


def test_a_stream_that_does_not_step_is_charged_no_time_of_the_network(tiny: TSM) -> None:
    sessions = [tiny.session(), tiny.session()]
    frames = clip(0, 2)
    tiny.update_many(sessions, frames, [{"timestamp": 0.0}] * 2)
    idle, due = tiny.update_many(sessions, frames, [{"timestamp": 0.02}, {"timestamp": 0.1}])
    assert (idle.fresh, idle.timing.run_ms) == (False, 0.0)
    assert due.fresh and due.timing.run_ms > 0


# -- ends and errors -----------------------------------------------------------------------------------------------------


def test_a_source_that_fails_is_told_and_the_others_finish(tiny: TSM) -> None:
    told: list[tuple[int, EffvisionError]] = []
    error = SourceError("cable cut")
    sources = [Opened(8), Opened(3, error=error), Opened(5)]
    found = grouped(tiny.stream_many(sources, on_error=lambda at, what: told.append((at, what))), 3)
    assert [len(results) for results in found] == [8, 3, 5]
    assert told == [(1, error)]
    for results, count in zip(found, (8, 3, 5), strict=True):
        same(results, list(tiny.stream(Opened(count))))
    assert all(source.closed for source in sources)


def test_without_a_listener_the_error_is_raised_and_all_are_closed(tiny: TSM) -> None:
    sources = [Opened(8), Opened(3, error=SourceError("cable cut"))]
    seen: list[int] = []
    with pytest.raises(SourceError, match="cable cut"):
        seen.extend(place for place, _ in tiny.stream_many(sources))
    assert seen.count(1) == 3
    assert all(source.closed for source in sources)


def test_leaving_the_loop_closes_all(tiny: TSM) -> None:
    sources = [Opened(50), Opened(50)]
    results = tiny.stream_many(sources)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert all(source.closed for source in sources)


@pytest.mark.parametrize("options", [{"fps": 0}, {"smoothing": "some"}, {"speed": 2}], ids=str)
def test_wrong_options_are_refused_by_the_call_before_anything_is_opened(tiny: TSM, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        tiny.stream_many(["absent.mp4", "absent.mp4"], **options)


def test_what_cannot_be_opened_is_told_by_the_call_and_what_was_opened_is_closed(tiny: TSM, tmp_path: Path) -> None:
    sources = [Opened(3), Opened(3)]
    with pytest.raises(SourceError, match=r"absent\.mp4"):
        tiny.stream_many([*sources, tmp_path / "absent.mp4"])
    assert all(source.closed for source in sources)
    with pytest.raises(InputError, match="each of them once"):
        tiny.stream_many([sources[0], sources[0]])
    with pytest.raises(InputError, match="one or more sources"):
        tiny.stream_many([])


@pytest.mark.parametrize("one", ["clip.mp4", Path("clip.mp4"), np.zeros((3, 24, 32, 3), np.uint8), iter([])], ids=type)
def test_one_source_that_was_forgotten_to_be_put_in_a_list_is_not_taken_apart(tiny: TSM, one: Any) -> None:
    refused(lambda: tiny.stream_many(one), "must be a list", "stream", kind=DTypeError)


def test_weights_that_cannot_stream_are_refused_by_the_call() -> None:
    opened = open_source(np.zeros((2, 24, 32, 3), np.uint8))
    model = TSM.untrained("tsm-resnet50-kinetics-8f")
    refused(lambda: model.stream_many([opened]), "cannot stream")
