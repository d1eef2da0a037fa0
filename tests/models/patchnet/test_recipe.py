from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from effvision._optional import import_cv2
from effvision.errors import CheckpointError, InputError, SourceError
from effvision.models.patchnet import recipe_train
from effvision.models.patchnet.network import PatchNet
from effvision.models.patchnet.recipe import main
from effvision.models.patchnet.recipe_data import (
    SPLITS,
    Media,
    Pairs,
    cached_pairs,
    cut_pair,
    film_names,
    media_paths,
    real_pairs,
    rendered_pairs,
)
from effvision.models.patchnet.recipe_evaluate import (
    boxes_iou,
    follow_keys,
    load_matcher,
    propagate,
    score_pairs,
    success,
)
from effvision.models.patchnet.recipe_scenes import Look, outline, render_scene
from effvision.models.patchnet.recipe_train import (
    LOSSES,
    Settings,
    calibrate,
    inputs_of,
    overlaps,
    pair_loss,
    train,
    true_cells,
)
from effvision.training import save_weights

cv2: Any = import_cv2()

Array = NDArray[Any]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def texture(seed: int, size: tuple[int, int] = (200, 260)) -> Array:
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.uniform(0, 255, (size[0] // step, size[1] // step, 3)).astype(np.float32), size[::-1])
        for step in (5, 11, 40)
    ]
    return np.asarray(np.clip(np.mean(layers, axis=0) * 1.6 - 80, 0, 255).astype(np.uint8))


MEDIA = Media((tuple(texture(seed) for seed in range(4)), tuple(texture(seed) for seed in range(4, 8))))


def stacked(pairs: list[tuple[Array, Array, Array]]) -> Pairs:
    return Pairs(*(np.stack(parts) for parts in zip(*pairs, strict=True)))


def some(count: int, *, seed: int = 0, look: Look | None = None) -> Pairs:
    pairs = rendered_pairs(MEDIA, (seed,), look)
    return stacked([next(pairs) for _ in range(count)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with small clips and a few stills for each split, all of them different."""
    root = tmp_path / "data"
    for number, name in enumerate(name for split in SPLITS for name in film_names(split, real=True)):
        path = root / "video" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        film = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12.0, (128, 96))
        for frame in range(4):
            film.write(np.roll(texture(number, (96, 128)), 3 * frame, axis=1))
        film.release()
    for number, folder in enumerate(("gestures/poses/hand/a", "gestures/poses/body/a", "textures/photos")):
        (root / folder).mkdir(parents=True)
        for index in range(6):
            cv2.imwrite(str(root / folder / f"{index}.jpg"), texture(100 + 10 * number + index))
    return root


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effvision.models.patchnet.recipe_data._CHUNK", 12)


def tiny(out: Path, root: Path, **changes: Any) -> Settings:
    return replace(Settings(out, root, steps=4, pairs=4, rendered=12, real=0, calibrated=0, every=2), **changes)


@pytest.mark.parametrize("kind", ["rectangle", "ellipse", "blob"])
def test_an_outline_fills_the_unit_square(kind: str) -> None:
    for seed in range(20):
        points = outline(kind, np.random.default_rng(seed))
        assert (points.min(0) == 0).all() and (points.max(0) == 1).all()


def drawn_from(pictures: Iterator[Array]) -> Callable[[np.random.Generator], Array]:
    return lambda _: next(pictures)


def test_true_boxes_are_where_the_pixels_of_objects_are() -> None:
    white, black = np.full((300, 300, 3), 255, np.uint8), np.zeros((300, 300, 3), np.uint8)
    white[::3, ::2] = 90  # not plain, but nowhere dark
    looked = 0
    for seed in range(30):
        pictures = itertools.chain([black], itertools.repeat(white))  # a black background; all that is pasted is bright
        look = Look(light=0, spoiled=0, hidden=0, camera=0, smallest=24)
        scene = render_scene(np.random.default_rng(seed), drawn_from(pictures), look)
        if len(scene.boxes_first) != 1:
            continue  # several may lie over each other
        for frame, box in ((scene.first, scene.boxes_first[0]), (scene.second, scene.boxes_second[0])):
            bright = np.argwhere(frame.mean(2) > 40)
            found = np.concatenate([bright.min(0)[::-1], bright.max(0)[::-1] + 1])
            limits = np.tile([frame.shape[1], frame.shape[0]], 2)
            np.testing.assert_allclose(found, np.clip(box, 0, limits), atol=1.6)
            looked += 1
    assert looked >= 8


class Still:
    """Stands for random numbers: no jitter of boxes, and a search around the template's own box."""

    def __init__(self) -> None:
        self.numbers = [0.9, 0.0]

    def uniform(self) -> float:
        return self.numbers.pop(0)


def pair_around(first: Array, second: Array, box: Array, truth: Array) -> Pairs:
    pair = cut_pair(Still(), first, second, box, truth, near=0.5)  # type: ignore[arg-type]
    assert pair is not None
    return stacked([pair])


@pytest.mark.parametrize("zero_mean", [False, True])
def test_a_moved_picture_is_found_in_the_cell_it_moved_to(zero_mean: bool) -> None:
    network, picture = PatchNet(zero_mean=zero_mean).eval(), texture(3, (240, 320))
    box = np.array([120.0, 80.0, 184.0, 144.0])  # a cell is 8 pixels
    for down, right in [(0, 0), (8, 0), (0, -16), (-24, 24), (16, 8)]:
        moved = np.roll(picture, (down, right), (0, 1))
        pair = pair_around(picture, moved, box, box + np.array([right, down, right, down]))
        np.testing.assert_allclose(pair.moves[0], np.array([down, down, right, right]) / 8)
        scores = score_pairs(network, pair)
        assert scores.right == 1 and scores.iou > 0.9


def test_moves_lead_from_the_searched_box_to_the_truth() -> None:
    picture = texture(1, (240, 320))
    box, truth = np.array([100.0, 60.0, 164.0, 140.0]), np.array([108.0, 50.0, 180.0, 130.0])
    moves = pair_around(picture, picture, box, truth).moves[0]
    np.testing.assert_allclose(moves * [10, 10, 8, 8], [-10, -10, 8, 16], atol=1e-5)


def test_equal_seeds_give_equal_pairs_and_others_do_not() -> None:
    one, again, other = some(6), some(6), some(6, seed=1)
    for part, same, unlike in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(part, same)
        assert (part != unlike).any()


def test_pairs_keep_within_reach() -> None:
    moves = some(60).moves
    assert np.abs(moves.reshape(-1, 2, 2).mean(2)).max() <= 3.41
    assert set(true_cells(torch.from_numpy(moves)).tolist()) <= set(range(49))


def test_real_pairs_know_how_the_picture_moved() -> None:
    picture = texture(9, (180, 240))
    film = [np.roll(picture, (2 * step, 3 * step), (0, 1)) for step in range(4)]
    pairs = real_pairs(film, (0,))
    scores = score_pairs(PatchNet().eval(), stacked([next(pairs) for _ in range(12)]))
    assert scores.right >= 0.75 and scores.iou > scores.hold_iou + 0.1


def test_a_clip_without_motion_gives_no_pairs() -> None:
    assert list(real_pairs([texture(0, (90, 120))] * 3, (0,))) == []


def test_no_clip_or_picture_is_on_two_sides(data: Path) -> None:
    clips = [name for split in SPLITS for name in film_names(split, real=True)]
    stills = [path for split in SPLITS for path in media_paths(data, split, photos=True)]
    assert len(set(clips)) == len(clips) and len(set(stills)) == len(stills)


def test_training_renders_with_its_own_media_only(data: Path) -> None:
    of = {split: {one.tobytes() for group in Media.load(data, split).groups for one in group} for split in SPLITS}
    assert not of["train"] & of["test"] and not of["train"] & of["validation"] and not of["validation"] & of["test"]
    folders = {path.relative_to(data).parts[0] for path in media_paths(data, "train")}
    assert folders == {"gestures"}  # no photo of unclear origin unless asked for
    assert all(name.startswith("intel/") for name in film_names("train", real=True))


def test_pairs_are_rendered_once(
    data: Path, tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = cached_pairs(tmp_path / "pairs", data, "train", rendered=20, real=6, seed=0)
    monkeypatch.setattr(Media, "load", None)
    again = cached_pairs(tmp_path / "pairs", data, "train", rendered=20, real=6, seed=0)
    assert 20 < len(one.moves) <= 26
    for part, same in zip(one, again, strict=True):
        np.testing.assert_array_equal(part, same)


def test_a_killed_run_goes_on_to_the_same_weights(
    data: Path, tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, again = train(tiny(tmp_path / "whole", data)), train(tiny(tmp_path / "again", data))

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
            train(tiny(tmp_path / "parts", data))
    resumed = train(tiny(tmp_path / "parts", data))
    assert whole.read_bytes() == again.read_bytes() == resumed.read_bytes()
    assert sum(value.numel() for value in load_file(whole).values()) == 358
    with pytest.raises(CheckpointError, match="another --out"):
        train(tiny(tmp_path / "parts", data, seed=1))


@pytest.mark.parametrize(("kind", "zero_mean"), [*((kind, True) for kind in LOSSES), ("boxes", False)])
def test_a_few_steps_lower_the_loss(
    kind: str, zero_mean: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pairs = some(8)
    monkeypatch.setattr(recipe_train, "cached_pairs", lambda *_, **__: pairs)
    train(tiny(tmp_path, tmp_path, loss=kind, zero_mean=zero_mean, steps=8, pairs=8, every=8))
    losses = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["losses"]
    assert losses[-1] < losses[0] - 0.05


def test_edges_are_believed_as_far_as_they_are_right() -> None:
    pairs, network = some(40), PatchNet(zero_mean=True).eval()
    before, start = score_pairs(network, pairs), network.edges4.detach().clone()
    with torch.no_grad():
        network.edges4.mul_(4)
    factor = calibrate(network, pairs)
    torch.testing.assert_close(network.edges4.detach(), start * 4 * factor)
    assert 0.4 <= factor < 1
    assert score_pairs(network, pairs).edge_error <= before.edge_error * 1.001
    assert score_pairs(network, pairs).right == before.right


def test_an_unknown_loss_or_split_is_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(InputError, match="`loss` must be one of"):
        train(tiny(tmp_path, data, loss="l2"))
    with pytest.raises(InputError, match="`split` must be one of"):
        Media.load(data, "all")


@pytest.mark.parametrize("kind", LOSSES)
def test_the_loss_of_the_true_answer_is_the_least(kind: str) -> None:
    moves = torch.tensor([[1.2, 0.9, -2.0, -1.7], [0.0, 0.0, 0.0, 0.0]])
    cells = true_cells(moves)
    assert cells.tolist() == [4 * 7 + 1, 24]
    response, offsets = torch.zeros(2, 49), torch.zeros(2, 4, 49)
    response[torch.arange(2), cells] = 9.0
    offsets[torch.arange(2), :, cells] = moves - torch.tensor([[1.0, 1.0, -2.0, -2.0], [0, 0, 0, 0]])
    strength = torch.full((2,), 900.0)

    def loss(answer: torch.Tensor, edges: torch.Tensor) -> float:
        return float(pair_loss(answer.view(2, 7, 7), edges.view(2, 4, 7, 7), moves, strength, kind))

    best = loss(response, offsets)
    assert best < loss(response, offsets + 0.1) and best < loss(response.roll(1, 1), offsets)
    if kind == "center":
        assert best == pytest.approx(0, abs=1e-6)


def test_overlaps_of_moves_are_those_of_boxes() -> None:
    moves = torch.tensor([[0.0, 0.0, 0.0, 0.0], [4.0, 4.0, 0.0, 0.0], [9.0, 9.0, 0.0, 0.0]])
    np.testing.assert_allclose(overlaps(moves, torch.zeros(3, 4)), [1, 1 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(boxes_iou(np.array([0, 0, 8, 8.0]), np.array([0, 4, 8, 12.0])), 1 / 3)


def test_success_counts_thresholds_from_zero_to_one() -> None:
    assert success(np.ones(3)) == pytest.approx(20 / 21)  # nothing is above 1
    assert success(np.zeros(3)) == 0
    assert success(np.array([0.52])) == pytest.approx(11 / 21)


def test_a_sequence_is_followed_with_keys_and_alone() -> None:
    ground, thing = texture(1, (200, 260)) // 3, texture(2, (48, 40))
    frames, truth = [], []
    for step in range(6):
        frame, x, y = ground.copy(), 60 + 3 * step, 70 + 2 * step
        frame[y : y + 48, x : x + 40] = thing
        frames.append(frame)
        truth.append([x, y, x + 40, y + 48])
    boxes = np.array(truth, np.float64)
    network = PatchNet(zero_mean=True).eval()
    for every in (None, 3):
        assert boxes_iou(follow_keys(network, frames, boxes, every), boxes).min() > 0.85
    np.testing.assert_array_equal(follow_keys(network, frames, boxes, 3)[3], boxes[3])
    rows = np.array([[step, 1, 0.9, *box] for step, box in enumerate(truth)], np.float64)
    carried, held = propagate(network, frames.__getitem__, rows), propagate(None, frames.__getitem__, rows)
    assert list(carried) == list(held) == [1, 2, 3, 4, 5]
    assert carried[4] > held[4] + 0.1


def test_the_command_trains_and_says_what_is_wrong(
    data: Path, tmp_path: Path, small_chunks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--data", str(data), "--threads", "1"]
    few = ["--steps", "2", "--rendered", "12", "--real", "6", "--calibrated", "6"]
    assert main(["train", "--out", str(tmp_path / "out"), *few, *common]) == 0
    file = tmp_path / "out" / "weights.safetensors"
    assert str(file) in capsys.readouterr().out
    measured = ["--split", "validation", "--pairs", "12", "--cache", str(tmp_path / "cache"), *common]
    assert main(["evaluate", str(file), *measured, "--json", str(tmp_path / "report.json")]) == 0
    assert main(["control", "--no-zero-mean", *measured]) == 0
    assert capsys.readouterr().out.count("right cell") == 4
    assert main(["evaluate", str(tmp_path / "absent.safetensors"), *measured]) == 1
    assert capsys.readouterr().err.startswith("effvision: ")
    with pytest.raises(SourceError, match="hint: "):
        media_paths(tmp_path / "nothing", "train")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit PatchNet"):
        load_matcher(save_weights({"taps2": torch.zeros(3)}, tmp_path / "x.safetensors"))


def test_a_missing_sequence_or_picture_is_our_error(tmp_path: Path, data: Path) -> None:
    with pytest.raises(SourceError, match="cannot read the clip"):
        Media.load(tmp_path, "train")
    next((data / "gestures" / "poses" / "hand").rglob("*.jpg")).write_bytes(b"nothing")
    with pytest.raises(SourceError, match="cannot read the picture"):
        Media.load(data, "train")


def test_inputs_are_colours_less_their_mean() -> None:
    pairs = some(2)
    batch = inputs_of(pairs)
    assert batch.templates.shape == (2, 3, 64, 64) and batch.searches.shape == (2, 3, 119, 119)
    assert float(batch.templates[0, 0, 0, 0]) == pytest.approx(pairs.templates[0, 0, 0, 0] - 122.7717, abs=1e-3)
