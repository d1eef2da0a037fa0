"""PyTorch and ONNX Runtime behind one interface: the same numbers, the same refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from effvision import TSM, State
from effvision.cards import get_card
from effvision.checkpoints import find_weights
from effvision.errors import InputError, ModelFileError, RuntimeFailure, ShapeError, StateError
from effvision.models.tsm.network import insert_temporal_shift
from effvision.runtime import Runtime

CARD = "tsm-mobilenetv2-motion"
SIZE = 16


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(x))


@pytest.fixture(scope="module")
def model() -> TSM:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), _Block(), _Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    network = insert_temporal_shift(layers, sites=["1.conv", "2.conv"]).eval()
    return TSM.from_network(network, labels=["a", "b", "c", "d"], size=(SIZE, SIZE), fps=10.0)


@pytest.fixture(scope="module")
def dynamic(model: TSM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.export(tmp_path_factory.mktemp("dynamic") / "m.onnx", batch="dynamic").path


@pytest.fixture(scope="module")
def of_two(model: TSM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.export(tmp_path_factory.mktemp("fixed") / "m.onnx", batch=2).path


@pytest.fixture(params=["torch", "onnx"])
def runtime(request: pytest.FixtureRequest, model: TSM, dynamic: Path) -> Runtime:
    return model.runtime if request.param == "torch" else TSM.from_pretrained(dynamic).runtime


def _frames(step: int, batch: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {"frame": rng.uniform(0, 255, (batch, 3, SIZE, SIZE)).astype(np.float32)}


def _logits(runtime: Runtime, steps: int, batch: int) -> np.ndarray:
    state, found = runtime.initial_state(batch), []
    for step in range(steps):
        outputs, state = runtime.step(_frames(step, batch), state)
        found.append(outputs["logits"])
    return np.stack(found)


# --- the same numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5])  # the graph was traced at two
def test_both_give_the_same_numbers_over_a_stream(model: TSM, dynamic: Path, batch: int) -> None:
    wanted = _logits(model.runtime, 20, batch)
    got = _logits(TSM.from_pretrained(dynamic).runtime, 20, batch)
    assert wanted.shape == (20, batch, 4)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())  # the export check's own limit


def test_both_give_the_same_answers_to_pictures(model: TSM, dynamic: Path) -> None:
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (12, 40, 30, 3), dtype=np.uint8)
    exported = TSM.from_pretrained(dynamic)
    assert (exported.runtime.name, exported.labels, exported.fps) == ("onnx", model.labels, model.fps)
    for one, other in zip(model.stream(clip), exported.stream(clip), strict=True):
        assert (one.label, one.fresh, one.timestamp) == (other.label, other.fresh, other.timestamp)
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-5)
    np.testing.assert_allclose(exported.predict(clip).logits, model.predict(clip).logits, atol=1e-4)


def test_the_state_matters(runtime: Runtime) -> None:
    fresh, _ = runtime.step(_frames(1), runtime.initial_state())
    _, state = runtime.step(_frames(0), runtime.initial_state())
    carried, _ = runtime.step(_frames(1), state)
    assert np.abs(carried["logits"] - fresh["logits"]).max() > 1e-3


def test_streams_in_one_call_do_not_see_each_other(runtime: Runtime) -> None:
    together = _logits(runtime, 6, 3)
    for row in range(3):
        state = runtime.initial_state(1)
        for step in range(6):
            frame = {"frame": _frames(step, 3)["frame"][row : row + 1]}
            outputs, state = runtime.step(frame, state)
            np.testing.assert_allclose(outputs["logits"][0], together[step, row], rtol=0, atol=1e-4)


def test_two_streams_in_two_threads_do_not_see_each_other(model: TSM, dynamic: Path) -> None:
    clips = [np.random.default_rng(seed).integers(0, 256, (30, 20, 20, 3), dtype=np.uint8) for seed in range(2)]
    for one in (model, TSM.from_pretrained(dynamic)):
        alone = [[result.logits.tolist() for result in one.stream(clip)] for clip in clips]
        with ThreadPoolExecutor(2) as pool:
            together = pool.map(lambda clip, one=one: [result.logits.tolist() for result in one.stream(clip)], clips)
        assert list(together) == alone


def test_a_state_crosses_from_one_back_end_to_the_other(model: TSM, dynamic: Path) -> None:
    exported = TSM.from_pretrained(dynamic)
    wanted = _logits(model.runtime, 3, 1)[2]
    for first, second in ((model.runtime, exported.runtime), (exported.runtime, model.runtime)):
        state = first.initial_state()
        for step in range(2):
            _, state = first.step(_frames(step), state)
        outputs, _ = second.step(_frames(2), State(state.numpy()))
        np.testing.assert_allclose(outputs["logits"], wanted, rtol=0, atol=1e-4)


def test_outputs_are_numpy_and_hold_no_state(runtime: Runtime) -> None:
    outputs, state = runtime.step(_frames(0), runtime.initial_state())
    assert set(outputs) == {"logits"} and type(outputs["logits"]) is np.ndarray
    assert list(state) == list(runtime.initial_state()) and state.batch == 1


def test_a_frame_that_is_not_contiguous_is_the_same_frame(runtime: Runtime) -> None:
    frame = _frames(0)["frame"]
    turned = np.ascontiguousarray(frame.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wanted, _ = runtime.step({"frame": frame}, runtime.initial_state())
    got, _ = runtime.step({"frame": turned}, runtime.initial_state())
    np.testing.assert_allclose(got["logits"], wanted["logits"], rtol=0, atol=1e-5)


# --- the same refusals ----------------------------------------------------------------------------------------------------


def _wrong_states(runtime: Runtime) -> dict[str, State]:
    held = runtime.initial_state().numpy()
    name = next(iter(held))
    return {
        "none": State(),
        "another batch": runtime.initial_state(2),
        "a missing array": State({key: array for key, array in held.items() if key != name}),
        "another size": State({**held, name: np.zeros((1, 2, 3, 3), np.float32)}),
        "a missing axis": State({**held, name: held[name][..., 0]}),
    }


@pytest.mark.parametrize("which", ["none", "another batch", "a missing array", "another size", "a missing axis"])
def test_a_state_of_another_network_is_refused_by_name(runtime: Runtime, which: str) -> None:
    with pytest.raises(StateError, match=r"state `state_\d+` must be .*\nhint: "):
        runtime.step(_frames(0), _wrong_states(runtime)[which])


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 1, SIZE, SIZE), (3, SIZE, SIZE), (1, 3, SIZE, SIZE, 1)])
def test_an_input_of_another_shape_is_refused(runtime: Runtime, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"`frame` must be \['batch', 3, 16, 16\]"):
        runtime.step({"frame": np.zeros(shape, np.float32)}, runtime.initial_state())


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_an_input_of_another_dtype_is_our_error(runtime: Runtime, dtype: Any) -> None:
    with pytest.raises((RuntimeFailure, InputError)):
        runtime.step({"frame": _frames(0)["frame"].astype(dtype)}, runtime.initial_state())


def test_a_file_for_a_fixed_number_of_streams_says_how_many(model: TSM, of_two: Path) -> None:
    fixed = TSM.from_pretrained(of_two)
    np.testing.assert_allclose(_logits(fixed.runtime, 4, 2), _logits(model.runtime, 4, 2), rtol=0, atol=1e-4)
    for batch in (1, 3):
        with pytest.raises(ShapeError, match=r"exactly 2 streams a call; batch='dynamic'"):
            fixed.runtime.step(_frames(0, batch), fixed.runtime.initial_state(batch))
    picture = np.zeros((20, 20, 3), np.uint8)
    sessions = [fixed.session(), fixed.session()]
    answers = fixed.update_many(sessions, [picture, picture])
    wanted = model.session().update(picture)
    for answer in answers:
        np.testing.assert_allclose(answer.scores, wanted.scores, atol=1e-5)
    with pytest.raises(ShapeError, match="batch='dynamic'"):
        fixed.session().update(picture)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "tensorrt", "gpu", "", "CPU0", "cpu:x"])
def test_a_device_that_does_not_exist_is_refused_by_name(dynamic: Path, device: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if device != "" and any(device.lower().split(":")[0] in p.lower() for p in onnxruntime.get_available_providers()):
        pytest.skip("this machine has it")
    with pytest.raises(InputError, match=f"{device!r}"):
        TSM.from_pretrained(dynamic, device=device)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:999", "meta"])
def test_a_device_pytorch_does_not_have_is_refused_by_name(device: str) -> None:
    with pytest.raises(InputError, match=f"{device!r}"):
        TSM.from_pretrained(CARD, runtime="torch", device=device)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing_but_the_time(model: TSM, dynamic: Path, threads: int) -> None:
    got = _logits(TSM.from_pretrained(dynamic, threads=threads).runtime, 3, 1)
    np.testing.assert_allclose(got, _logits(model.runtime, 3, 1), rtol=0, atol=1e-4)


def test_a_checkpoint_does_not_run_in_onnx_runtime_nor_an_exported_file_in_pytorch(dynamic: Path) -> None:
    with pytest.raises(InputError, match="exported file"):
        TSM.from_pretrained(dynamic, runtime="torch")
    weights = find_weights(get_card(CARD))
    with pytest.raises(InputError, match=r"not the checkpoint .*\nhint: "):
        TSM.from_pretrained(weights, card=CARD, runtime="onnx")


def test_a_model_from_an_exported_file_does_not_export_again(dynamic: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"copy that file.*\nhint: "):
        TSM.from_pretrained(dynamic).export(tmp_path / "again.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"absent\.onnx"):
        TSM.from_pretrained(tmp_path / "absent.onnx")
