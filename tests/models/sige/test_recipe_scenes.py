"""Training of the generator of scenes: seeded, resumable, and its pieces against definitions of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from effvision.errors import CheckpointError, InputError, RangeError, ShapeError
from effvision.models.sige import recipe_scenes
from effvision.models.sige.recipe_scenes_evaluate import contact_sheet, draw, measure, psnr, ssim
from effvision.models.sige.recipe_scenes_losses import PatchJudge, altered, judge_loss, picture_distance
from effvision.models.sige.recipe_scenes_train import Settings, Shown, learning_rate, settle, train
from effvision.models.sige.scenes import PALETTE, guide, layout, network_input, render
from effvision.models.sige.scenes_network import CHANNELS, SceneGenerator

SMALL: dict[str, Any] = {
    "steps": 4,
    "pictures": 2,
    "crop": 32,
    "whole": 0.0,
    "judged_from": 0.5,
    "settled": 2,
    "every": 2,
}


def small_network(seed: int = 0) -> SceneGenerator:
    torch.manual_seed(seed)
    return SceneGenerator(widths=(12, 10, 8, 6), hidden=(8, 8, 6, 6)).eval()


# --- the network ------------------------------------------------------------------------------------------------------


def test_a_pixel_of_the_network_sees_48_pixels_each_way_and_no_more() -> None:
    network = small_network().double()
    labels = torch.randn(1, CHANNELS, 160, 160, dtype=torch.float64)
    other = labels.clone()
    other[:, :, 80:88, 72:80] += 1
    with torch.inference_mode():
        moved = (network(other) - network(labels)).abs().amax((0, 1)) > 0
    rows, columns = moved.nonzero(as_tuple=True)
    assert moved[80:88, 72:80].all()
    assert 80 - 48 <= int(rows.min()) <= 80 - 40 and 87 + 40 <= int(rows.max()) <= 87 + 48
    assert int(columns.min()) >= 72 - 48 and int(columns.max()) <= 79 + 48


def test_the_network_takes_what_the_scenes_give_and_refuses_other_sizes() -> None:
    network = small_network()
    arrays = torch.from_numpy(network_input(layout(0)))[None]
    with torch.inference_mode():
        picture = network(arrays[:, :, :64, :40])
    assert picture.shape == (1, 3, 64, 40) and float(picture.abs().max()) <= 1
    for wrong in (arrays[:, 1:], arrays[:, :, :60], arrays[0]):
        with pytest.raises(ShapeError, match="hint:"):
            network(wrong)
    with pytest.raises(InputError, match="widths"):
        SceneGenerator(widths=(8, 8, 0, 8))


# --- losses -----------------------------------------------------------------------------------------------------------


def test_the_distance_of_pictures_is_the_loop_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(2, 3, 8, 12)) for _ in range(2))
    apart, wanted = one - other, float(np.abs(one - other).mean())
    for level in range(3):
        if level:
            apart = (
                apart[:, :, ::2, ::2] + apart[:, :, 1::2, ::2] + apart[:, :, ::2, 1::2] + apart[:, :, 1::2, 1::2]
            ) / 4
            wanted += float(np.abs(apart).mean()) / 3
        wanted += 0.5 / 3 * float(np.abs(np.diff(apart, axis=2)).mean() + np.abs(np.diff(apart, axis=3)).mean())
    given = picture_distance(torch.from_numpy(one), torch.from_numpy(other), gradients=0.5)
    assert abs(float(given) - wanted) < 1e-12


def test_a_blurred_picture_is_further_away_than_one_of_another_brightness() -> None:
    """At the same mean difference; that is what slopes are for."""
    picture = torch.from_numpy(render(layout(3))).permute(2, 0, 1)[None].float() / 127.5 - 1
    blurred = nn.functional.avg_pool2d(picture, 5, stride=1, padding=2, count_include_pad=False)
    brighter = picture + (blurred - picture).abs().mean()
    assert float(picture_distance(blurred, picture)) > 1.5 * float(picture_distance(brighter, picture))


def test_alterations_move_pictures_and_labels_alike_and_let_gradients_through() -> None:
    place = torch.rand(2, 1, 32, 48) + 0.5
    pictures, labels = place.expand(2, 3, 32, 48).clone().requires_grad_(), place.expand(2, 4, 32, 48).clone()
    (one, same), where = altered((pictures, pictures), labels, torch.Generator().manual_seed(4))
    assert torch.equal(one, same) and one.shape == pictures.shape and where.shape == labels.shape
    assert torch.equal((one == 0).all(1), (where == 0).all(1))  # the hole and the margins
    for picture, label in zip(one, where, strict=True):  # recoloured by a linear map, so still in step with the labels
        kept = label[0] != 0
        both = torch.stack([picture[0][kept], label[0][kept]]).detach()
        assert float(torch.corrcoef(both)[0, 1]) > 0.999
    one.sum().backward()
    assert pictures.grad is not None and float(pictures.grad.abs().sum()) > 0
    again = altered((pictures,), labels, torch.Generator().manual_seed(5))[1]
    assert not torch.equal(where, again)


def test_the_judge_learns_to_tell_pictures_apart() -> None:
    torch.manual_seed(0)
    judge = PatchJudge(4, width=8)
    labels, real, made = torch.rand(4, 4, 32, 32), torch.rand(4, 3, 32, 32), torch.zeros(4, 3, 32, 32)
    optimiser = torch.optim.Adam(judge.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = judge_loss(judge(real, labels)[0], judge(made, labels)[0])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_hangs_on_its_step_alone_and_fits_together() -> None:
    settings = Settings(Path(), pictures=4, crop=64, steps=10)
    first, again = Shown(settings)[3], Shown(settings)[3]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first.pictures, Shown(settings)[4].pictures)
    assert first.labels.shape == (4, 64, 64) and first.pictures.shape == (4, 64, 64, 3)
    labels, wanted = first.shown("cpu")
    assert labels.shape == (4, CHANNELS, 64, 64) and wanted.shape == (4, 3, 64, 64)
    assert torch.equal(labels[:, : len(PALETTE)].argmax(1), first.labels.long())
    assert float(wanted.min()) >= -1 and float(wanted.max()) <= 1
    assert Shown(settings)[9].pictures.shape == (1, 256, 256, 3)  # the last steps see whole scenes


def test_crops_lie_where_their_guide_lies() -> None:
    """Height and the grid of windows do not hang on the seed, so they tell where a crop was cut."""
    height = guide(256, 256)[0].astype(np.float16)
    batch = Shown(Settings(Path(), pictures=4, crop=64, steps=10))[1]
    for planes in batch.guides.numpy():
        row = int(np.argmin(np.abs(height[:, 0].astype(float) - float(planes[0, 0, 0]))))
        assert row % 8 == 0 and np.array_equal(planes[0], height[row : row + 64, :64])


def test_settling_takes_the_mean_statistics_of_the_batches() -> None:
    network = nn.Sequential(nn.Conv2d(CHANNELS, 2, 1), nn.BatchNorm2d(2))
    settings = Settings(Path(), pictures=2, crop=32, steps=10)
    batches = [Shown(settings)[step] for step in (1, 2, 3)]
    with torch.no_grad():
        made = [network[0](batch.shown("cpu")[0]) for batch in batches]
    settle(network, iter(batches), "cpu")
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    assert torch.allclose(norm.running_mean, torch.stack([one.mean((0, 2, 3)) for one in made]).mean(0), atol=1e-6)
    assert not network.training and norm.momentum == 0.1


def test_the_rate_rises_and_falls() -> None:
    settings = Settings(Path(), steps=1000)
    rates = [learning_rate(step, settings) for step in range(1000)]
    assert np.argmax(rates) == 99 and rates[0] < 0.02 * max(rates) and 0 < rates[-1] < 0.02 * max(rates)


# --- training ---------------------------------------------------------------------------------------------------------


def tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole = train(Settings(tmp_path / "whole", **SMALL))
    assert train(Settings(tmp_path / "parts", **SMALL, stop=3)) is None
    parts = train(Settings(tmp_path / "parts", **SMALL))
    assert whole is not None and parts is not None
    one, other = tensors(whole), tensors(parts)
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    settings = Settings(tmp_path, **SMALL, stop=1)
    train(settings)
    with pytest.raises(CheckpointError, match="hint:"):
        train(replace(settings, seed=1))


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for wrong, kind in (({"crop": 60}, InputError), ({"pictures": 1}, RangeError), ({"steps": 0}, RangeError)):
        with pytest.raises(kind, match="hint:"):
            train(Settings(tmp_path, **wrong))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_brings_pictures_of_other_scenes_nearer(tmp_path: Path) -> None:
    settings = Settings(
        tmp_path, **{**SMALL, "steps": 30, "pictures": 6, "painted": 0.0, "every": 30, "judged": 0.0, "rate": 4e-3}
    )
    labels, wanted = Shown(replace(settings, seed=99, pictures=24))[0].shown("cpu")
    torch.manual_seed(0)
    network = SceneGenerator()
    apart = []
    for trained in (False, True):
        if trained:
            train(settings)
            network.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"])
        with torch.no_grad():
            apart.append(float(picture_distance(network(labels), wanted)))
    assert apart[1] < 0.8 * apart[0]


# --- scores -----------------------------------------------------------------------------------------------------------


class Echo(nn.Module):
    """Draws every class in one grey, whatever the guide says."""

    def __init__(self) -> None:
        super().__init__()
        self.greys = nn.Parameter(torch.linspace(-1, 1, len(PALETTE)))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        grey = (labels[:, : len(PALETTE)] * self.greys[:, None, None]).sum(1, keepdim=True)
        return grey.expand(-1, 3, -1, -1)


def test_what_is_drawn_is_the_network_s_picture_rounded() -> None:
    labels = layout(1)
    wanted = np.rint((np.linspace(-1, 1, len(PALETTE)) + 1) * 127.5)[labels]
    assert np.abs(draw(Echo(), labels)[:, :, 1] - wanted).max() <= 1


def test_psnr_and_ssim_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (24, 20, 3)).astype(np.uint8)
    other = np.clip(one.astype(int) + rng.integers(-30, 31, one.shape), 0, 255).astype(np.uint8)
    error = np.mean([(float(a) - float(b)) ** 2 for a, b in zip(one.ravel(), other.ravel(), strict=True)])
    assert abs(psnr(one, other) - 20 * np.log10(255 / np.sqrt(error))) < 1e-9
    assert psnr(one, one) == 100 and abs(ssim(one, one) - 1) < 1e-9
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    a, b = (picture @ np.array([0.299, 0.587, 0.114]) for picture in (one, other))
    found = []
    for row in range(14):
        for column in range(10):
            x, y = a[row : row + 11, column : column + 11], b[row : row + 11, column : column + 11]
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            both = (window * (x - mx) * (y - my)).sum()
            c1, c2 = 2.55**2, 7.65**2
            found.append((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert abs(ssim(one, other) - np.mean(found)) < 1e-9


def test_scores_say_what_flat_colours_would_reach() -> None:
    scores = measure(Echo(), split="validation", scenes=2, painted=0.0)
    assert scores.scenes == 2 and scores.psnr_db < scores.chance_psnr_db < 40 and 0 < scores.chance_ssim < 1
    with pytest.raises(InputError, match="hint:"):
        measure(Echo(), split="test", scenes=0, painted=0.0)


def test_the_commands_measure_and_draw_a_weights_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--out", str(tmp_path), "--steps", "2", "--pictures", "2", "--crop", "32", "--judged", "0"]
    assert recipe_scenes.main(["train", *common, "--stop", "1"]) == 0 and "goes on" in capsys.readouterr().out
    torch.manual_seed(0)
    from effvision.training import save_weights

    weights = save_weights(SceneGenerator().state_dict(), tmp_path / "weights.safetensors")
    assert recipe_scenes.main(["evaluate", str(weights), "--scenes", "1", "--json", str(tmp_path / "a.json")]) == 0
    assert set(json.loads((tmp_path / "a.json").read_text())) == {"as laid out", "painted on"}
    assert recipe_scenes.main(["sheet", str(weights), "--scenes", "2", "--save", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert recipe_scenes.main(["sheet", str(weights), "--scenes", "3", "--save", str(tmp_path / "b.png")]) == 1
    assert "hint:" in capsys.readouterr().err and not (tmp_path / "b.png").exists()
    with pytest.raises(InputError, match=r"\.png"):
        contact_sheet(small_network(), tmp_path / "b.gif", split="test", scenes=2)
