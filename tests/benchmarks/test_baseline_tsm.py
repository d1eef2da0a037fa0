"""The eager baseline is another program for the same function."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from baselines.tsm import OnlineMobileNetV2  # noqa: E402

from effvision.models.tsm.network import TemporalNetwork, build, randomise  # noqa: E402

CLASSES = 27
COUNTED = 299_500_000  # multiply-adds of one 224x224 frame, to four digits


@pytest.fixture(scope="module")
def network() -> TemporalNetwork:
    """Ours, with random weights and batch normalisation that does something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = randomise(build(CLASSES, backbone="mobilenetv2", shift="causal")).eval()
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.8, 1.2)
                torch.nn.init.normal_(module.bias, std=0.2)
                torch.nn.init.normal_(module.running_mean, std=0.2)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made


@pytest.fixture(scope="module")
def baseline(network: TemporalNetwork) -> OnlineMobileNetV2:
    made = OnlineMobileNetV2(CLASSES).eval()
    ours = network.state_dict()
    assert [name.rpartition(".")[2] for name in made.state_dict()] == [name.rpartition(".")[2] for name in ours]
    made.load_state_dict(dict(zip(made.state_dict(), ours.values(), strict=True)))
    return made


def test_baseline_gives_our_logits_frame_by_frame(network: TemporalNetwork, baseline: OnlineMobileNetV2) -> None:
    frames = torch.randn(6, 1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    state, buffers = network.initial_state(1, 64, 64), baseline.first_buffers(64, 64)
    with torch.inference_mode():
        for frame in frames:
            ours, state = network.step(frame, state)
            theirs, buffers = baseline(frame, buffers)
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4 * float(ours.abs().max()))
            for held, buffer in zip(state.values(), buffers, strict=True):
                torch.testing.assert_close(buffer, held, rtol=0, atol=1e-4)


def test_baseline_sees_the_frames_before(baseline: OnlineMobileNetV2) -> None:
    frame = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        first, buffers = baseline(frame, baseline.first_buffers(64, 64))
        second, _ = baseline(frame, buffers)
    assert float((first - second).abs().max()) > 1e-2 * float(first.abs().max())


def test_both_do_the_multiply_adds_of_the_paper_s_online_network(
    network: TemporalNetwork, baseline: OnlineMobileNetV2
) -> None:
    from _machine import count_multiply_adds

    frame = torch.zeros(1, 3, 224, 224)
    state, buffers = network.initial_state(1, 224, 224), baseline.first_buffers(224, 224)
    ours = count_multiply_adds(network, lambda: network.step(frame, state))
    assert ours == count_multiply_adds(baseline, lambda: baseline(frame, buffers))
    assert round(ours, -5) == COUNTED
