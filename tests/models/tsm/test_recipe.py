from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from effvision.cards import get_card
from effvision.errors import CheckpointError, InputError, SourceError
from effvision.models.tsm import recipe_train
from effvision.models.tsm.clips import IGNORED, LABELS
from effvision.models.tsm.recipe import dry_settings, main
from effvision.models.tsm.recipe_data import FPS, SIZE, WARM_UP, anchor_of_last_half, batches, labelled_clips
from effvision.models.tsm.recipe_evaluate import load_motion, measure, wilson
from effvision.models.tsm.recipe_train import BUILD, Settings, motion_network, start_from_differences, train
from effvision.training import save_weights

SHIPPED = Path(__file__).parents[3] / "weights" / "tsm-mobilenetv2-motion.safetensors"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(out: Path, **changes: object) -> Settings:
    return replace(dry_settings(Settings(out, steps=4)), **changes)  # type: ignore[arg-type]


def test_a_dry_run_trains_and_its_file_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(tmp_path), "--dry-run", "--threads", "1", "--steps", "3"]) == 0
    assert "accuracy" in capsys.readouterr().out
    network = load_motion(tmp_path / "weights.safetensors")
    assert network.frame_logits(torch.zeros(1, 4, 3, 64, 64)).shape == (1, 4, len(LABELS))
    assert {tensor.dtype for tensor in load_file(tmp_path / "weights.safetensors").values()} == {torch.float16}
    assert (tmp_path / "report.json").exists()


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tiny(tmp_path / "whole"))

    class KilledError(Exception):
        pass

    rate = recipe_train.learning_rate

    def killed(step: int, settings: Settings) -> float:
        if step == 3:  # after the checkpoint of step 2
            raise KilledError
        return rate(step, settings)

    with monkeypatch.context() as patch:
        patch.setattr(recipe_train, "learning_rate", killed)
        with pytest.raises(KilledError):
            train(tiny(tmp_path / "parts"))
    resumed = train(tiny(tmp_path / "parts"))
    for (name, one), (other_name, other) in zip(load_file(whole).items(), load_file(resumed).items(), strict=True):
        assert name == other_name
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_learning_rate_warms_up_and_falls_to_zero_twice(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    rates = [recipe_train.learning_rate(step, settings) for step in range(settings.steps)]
    assert rates[0] < 0.02 * settings.rate
    assert max(rates) == pytest.approx(settings.rate)
    assert [step + 1 for step in range(settings.steps - 1) if rates[step + 1] > 10 * rates[step] > 0] == [2400, 3200]
    assert max(rates[2399], rates[3199]) < 1e-4 * settings.rate


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(tiny(tmp_path))
    with pytest.raises(CheckpointError, match="another --out"):
        train(tiny(tmp_path, seed=1))


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    train(tiny(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "weights.safetensors"]


def test_worker_processes_render_the_same_batches_in_order() -> None:
    stream = tiny(Path(), steps=4).stream()
    here = list(batches(stream, start=1, workers=0))
    there = list(batches(stream, start=1, workers=2))
    assert len(here) == len(there) == 3
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.pictures, other.pictures)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_frames_without_a_past_carry_no_loss() -> None:
    batch = next(batches(tiny(Path()).stream(), start=0, workers=0))
    assert (batch.labels[:, :WARM_UP] == IGNORED).all()
    assert (batch.labels[:, WARM_UP:] != IGNORED).any()


def test_the_network_starts_with_a_difference_of_two_frames() -> None:
    torch.manual_seed(0)
    network = motion_network().eval()
    start_from_differences(network)
    heard: list[torch.Tensor] = []
    first = network.network.get_submodule("features.1.conv.3")
    first.register_forward_hook(lambda _module, inputs, _output: heard.append(inputs[0]))
    frame = torch.rand(1, 1, 3, 32, 32)
    network.frame_logits(frame.expand(1, 2, 3, 32, 32))
    fold = 4  # a quarter of the stem's sixteen channels
    past, now = heard[0][1, :fold], heard[0][1, fold : 2 * fold]
    torch.testing.assert_close(past, now, rtol=0, atol=1e-6)  # nothing moved: both hold the same
    weight = first.weight[:, :, 0, 0]
    torch.testing.assert_close(weight[:, :fold], -weight[:, fold : 2 * fold], rtol=0, atol=0)


def test_test_clips_take_the_classes_in_turn_and_are_the_same_every_time() -> None:
    clips, again = (list(labelled_clips("validation", 20, root=None, seed=0, frames=6, size=32, warm=3)) for _ in "ab")
    assert [label for _, label in clips] == [*range(10), *range(10)]
    assert all(clip.shape == (9, 32, 32, 3) for clip, _ in clips)
    for (one, _), (other, _) in zip(clips, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not SHIPPED.exists(), reason="the weights are not in this checkout")
def test_the_shipped_weights_know_motion_they_were_not_trained_on() -> None:
    labelled = labelled_clips("validation", 60, root=None, seed=5, frames=10)  # unseen shapes and textures, no file
    right, count = measure(load_motion(SHIPPED), labelled, last=5).accuracy
    assert count == 60
    assert right >= 48  # far above the 6 of chance; the measured accuracy is in the card


def test_the_anchor_is_the_middle_of_the_frames_that_are_counted() -> None:
    assert anchor_of_last_half(10) == pytest.approx(7 / 9)  # frames 5..9 are counted


def test_a_perfect_and_a_constant_answer_are_counted_rightly() -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.eye(len(LABELS))[LABELS.index("right")])

        def frame_logits(self, clip: torch.Tensor) -> torch.Tensor:
            return self.bias.expand(*clip.shape[:2], -1)

    labelled = [(np.zeros((4, 16, 16, 3), np.uint8), label) for label in range(len(LABELS))]
    report = measure(Constant(), labelled, last=2)  # type: ignore[arg-type]
    assert report.accuracy == (1, 10)
    assert report.recalls()["right"] == 1
    assert report.pair_accuracy[1] == 8  # shake and still have no opposite
    assert "1/10 = 10.00%" in str(report)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (0, 0, 0.0, 1.0),  # nothing is known
        (50, 100, 0.4038, 0.5962),  # Wilson (1927), as in any table
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_interval(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=1e-3)


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        load_motion(tmp_path / "x.safetensors")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no CUDA device\nhint: "):
        recipe_train.check_device("cuda")


def test_an_error_of_ours_is_said_in_a_line_and_the_command_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path / "absent.safetensors"), "--dry-run", "--threads", "1"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("effvision: ") and "absent.safetensors" in told.err


def test_weights_that_cannot_be_written_are_our_error_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").mkdir()
    with pytest.raises(SourceError, match=r"weights\.safetensors: it is a folder"):
        save_weights({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_the_card_says_what_the_recipe_trains() -> None:
    card = get_card("tsm-mobilenetv2-motion")
    assert dict(card.network) == {**BUILD, "shift": "causal"}
    assert card.preprocess["size"] == (SIZE, SIZE) or card.preprocess["size"] == [SIZE, SIZE]
    assert card.options["fps"] == FPS and card.options["settle"] == WARM_UP
    assert card.labels == LABELS
