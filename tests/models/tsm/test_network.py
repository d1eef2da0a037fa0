"""One definition, three uses: bidirectional clip, causal clip, stream."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from effvision.errors import InputError, ShapeError, StateError, StreamingError
from effvision.models.tsm.network import TemporalNetwork, build, insert_temporal_shift, randomise
from effvision.models.tsm.residuals import residual_convolutions
from effvision.state import State

CAUSAL = [
    {"backbone": "mobilenetv2", "width": 0.35},
    {"backbone": "mobilenetv2", "width": 0.5, "fold": 4, "every_block": True},
    {"backbone": "resnet18"},
    {"backbone": "resnet50"},
    {"backbone": "resnet18", "place": "block"},
]


def make(classes: int = 5, *, seed: int = 0, **settings: object) -> TemporalNetwork:
    torch.manual_seed(seed)
    return randomise(build(classes, **settings)).eval()  # type: ignore[arg-type]


def clip(frames: int, *, streams: int = 1, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(streams, frames, 3, size, size, generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, wanted: Tensor) -> None:
    """Within 1e-4 of the largest logit: float32 sums in another order."""
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4 * max(1.0, float(wanted.abs().max())))


@torch.inference_mode()
def run_stream(network: TemporalNetwork, frames: Tensor) -> Tensor:
    state = network.initial_state(frames.shape[0], *frames.shape[-2:])
    logits = []
    for time in range(frames.shape[1]):
        answer, state = network.step(frames[:, time], state)
        logits.append(answer)
    return torch.stack(logits, 1)


@pytest.mark.parametrize("settings", CAUSAL, ids=str)
@torch.inference_mode()
def test_a_stream_equals_the_causal_clip_over_a_hundred_frames(settings: dict[str, object]) -> None:
    network = make(shift="causal", **settings)
    frames = clip(100)
    close(run_stream(network, frames), network.frame_logits(frames))


@torch.inference_mode()
def test_a_clip_is_the_mean_of_its_frames() -> None:
    network = make(backbone="resnet18", shift="bidirectional")
    frames = clip(8, streams=2)
    close(network(frames), network.frame_logits(frames).mean(1))


@torch.inference_mode()
def test_a_causal_network_does_not_see_the_future_and_a_bidirectional_one_does() -> None:
    frames = clip(6)
    changed = frames.clone()
    changed[:, 4:] = clip(2, seed=9)
    for shift, sees in (("causal", False), ("bidirectional", True)):
        network = make(backbone="mobilenetv2", width=0.35, shift=shift)
        before, after = network.frame_logits(frames)[:, 3], network.frame_logits(changed)[:, 3]
        assert (not torch.equal(before, after)) is sees


@torch.inference_mode()
def test_a_network_without_shift_judges_each_frame_by_itself() -> None:
    network = make(backbone="mobilenetv2", width=0.35, shift="none")
    frames = clip(5)
    close(network.frame_logits(frames)[0], network.network(frames[0]))
    assert len(network.initial_state(1, 32, 32)) == 0
    close(run_stream(network, frames), network.frame_logits(frames))


@torch.inference_mode()
def test_streams_in_one_call_equal_single_streams_and_join_and_leave_freely() -> None:
    network = make(backbone="mobilenetv2", width=0.35, shift="causal")
    frames = clip(6, streams=3)
    alone = run_stream(network, frames)
    first = network.initial_state(1, 32, 32)
    answers: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    states: dict[int, State] = {0: first}
    clock = {0: 0}
    for now in range(6):
        if now == 2:  # two cameras join, one of them leaves at 4
            states |= {1: network.initial_state(1, 32, 32), 2: network.initial_state(1, 32, 32)}
            clock |= {1: 0, 2: 0}
        if now == 4:
            del states[1], clock[1]
        batch = torch.stack([frames[n, clock[n]] for n in states])
        logits, together = network.step(batch, State.stack(list(states.values())))
        for row, (n, state) in enumerate(zip(list(states), together.split(), strict=True)):
            answers[n].append(logits[row])
            states[n], clock[n] = state, clock[n] + 1
    for n, given in answers.items():
        close(torch.stack(given), alone[n, : len(given)])


@torch.inference_mode()
def test_two_threads_share_a_network_without_mixing_their_streams() -> None:
    network = make(backbone="mobilenetv2", width=0.35, shift="causal")
    inputs = [clip(12, seed=seed) for seed in (1, 2)]
    wanted = [run_stream(network, frames) for frames in inputs]
    got: list[Tensor | None] = [None, None]

    def work(index: int) -> None:
        got[index] = run_stream(network, inputs[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer, other in zip(got, wanted, strict=True):
        assert answer is not None
        close(answer, other)


@torch.inference_mode()
def test_every_state_matters() -> None:
    """A lost state cannot pass: forgetting any one of them changes the next logits."""
    network = make(backbone="mobilenetv2", width=0.35, shift="causal")
    frames = clip(2)
    _, state = network.step(frames[:, 0], network.initial_state(1, 32, 32))
    whole, _ = network.step(frames[:, 1], state.copy())
    for name in state:
        lost = State({n: torch.zeros_like(a) if n == name else a.clone() for n, a in state.items()})
        other, _ = network.step(frames[:, 1], lost)
        assert not torch.allclose(other, whole, atol=1e-4)


def test_bidirectional_weights_are_refused_in_a_stream_with_the_reason() -> None:
    network = make(backbone="resnet18", shift="bidirectional")
    with pytest.raises(StreamingError, match="each frame was trained to see the next one"):
        network.initial_state(1, 32, 32)
    with pytest.raises(StreamingError, match="causal"):
        network.step(torch.zeros(1, 3, 32, 32), State())


@pytest.mark.parametrize("layer", ["non_local", "temporal_pool"])
def test_layers_that_look_at_the_whole_clip_are_refused_in_a_stream(layer: str) -> None:
    network = build(3, backbone="resnet50", shift="causal", **{layer: True})  # type: ignore[arg-type]
    assert not network.streams
    with pytest.raises(StreamingError, match="whole clip"):
        network.initial_state(1, 32, 32)


def test_a_state_of_another_number_of_streams_or_sites_is_refused() -> None:
    network = make(backbone="mobilenetv2", width=0.35, shift="causal")
    state = network.initial_state(2, 32, 32)
    with pytest.raises(StateError, match="holds 2 streams but 1 frames"):
        network.step(torch.zeros(1, 3, 32, 32), state)
    with pytest.raises(StateError, match="fewer than the network has"):
        network.step(torch.zeros(2, 3, 32, 32), State({"state_0": state["state_0"]}))
    with pytest.raises(StateError, match="shift sites"):
        network.step(torch.zeros(2, 3, 32, 32), State({**state, "more": state["state_0"]}))


def test_wrong_shapes_are_named() -> None:
    network = make(backbone="mobilenetv2", width=0.35, shift="causal")
    with pytest.raises(ShapeError, match=r"\(N, T, 3, H, W\)"):
        network(torch.zeros(3, 32, 32))
    with pytest.raises(ShapeError, match=r"\(N, 3, H, W\)"):
        network.step(torch.zeros(3, 32, 32), network.initial_state(1, 32, 32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "vgg16"}, "resnet18, resnet50, resnet101 or mobilenetv2"),
        ({"backbone": "resnet18", "width": 0.5}, "for mobilenetv2 only"),
        ({"backbone": "mobilenetv2", "place": "block"}, "for ResNets"),
        ({"backbone": "mobilenetv2", "temporal_pool": True}, "for ResNets"),
        ({"backbone": "resnet18", "non_local": True}, "resnet50 and resnet101"),
        ({"backbone": "resnet18", "shift": "sideways"}, "'bidirectional', 'causal' or 'none'"),
        ({"backbone": "resnet18", "place": "nowhere"}, "'blockres' or 'block'"),
        ({"backbone": "resnet18", "fold": 1}, "2 or more"),
        ({"backbone": "resnet18", "every_block": True}, "every block already"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(3, **settings)  # type: ignore[arg-type]


class Outsider(nn.Module):
    """A pre-activation network with names of its own, in-place additions and a reshaping shortcut."""

    class Unit(nn.Module):
        def __init__(self, channels: int, out: int) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(channels)
            self.wide = nn.Conv2d(channels, out, 3, padding=1)
            self.narrow = nn.Conv2d(out, out, 1)
            self.fit = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y = self.narrow(torch.relu(self.wide(torch.relu(self.norm(x)))))
            y += self.fit(x)
            return y

    def __init__(self) -> None:
        super().__init__()
        self.begin = nn.Conv2d(3, 16, 3, stride=2)
        self.units = nn.Sequential(self.Unit(16, 16), self.Unit(16, 24))
        self.end = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.units(self.begin(x)).mean((2, 3)))  # type: ignore[no-any-return]


@torch.inference_mode()
def test_a_network_from_outside_becomes_temporal_and_streams() -> None:
    torch.manual_seed(0)
    network = Outsider().eval()
    assert residual_convolutions(network) == ["units.0.wide", "units.1.wide"]
    temporal = insert_temporal_shift(network, direction="causal", fold=4)
    assert len(temporal.sites()) == 2 and "units.0.wide.net.weight" in dict(network.named_parameters())
    frames = clip(20, streams=2)
    close(run_stream(temporal, frames), temporal.frame_logits(frames))


@torch.inference_mode()
def test_a_published_network_of_another_package_becomes_temporal() -> None:
    package = pytest.importorskip("efficientnet_pytorch")  # convolutions of a class of its own, traced as such
    torch.manual_seed(0)
    network = package.EfficientNet.from_name("efficientnet-b0", image_size=64).eval()
    temporal = insert_temporal_shift(network)
    assert len(temporal.sites()) == 9  # one for each block with a shortcut
    frames = clip(6, size=64)
    for module in temporal.modules():
        if isinstance(module, nn.BatchNorm2d):  # take the statistics of one pass, or random weights let nothing through
            module.momentum = 1.0
    temporal.train()(frames)
    temporal.eval()
    stream = run_stream(temporal, frames)
    close(stream, temporal.frame_logits(frames))
    assert not torch.equal(stream[:, 5], run_stream(temporal, frames[:, 5:])[:, 0])


def test_sites_may_be_named_and_must_exist() -> None:
    assert len(insert_temporal_shift(Outsider(), sites=["units.1.narrow"]).sites()) == 1
    network = Outsider()
    for sites, message in ((["units.1.narrow", "units.7"], r"no module named 'units\.7'"), (["end", "end"], "twice")):
        with pytest.raises(InputError, match=message):
            insert_temporal_shift(network, sites=sites)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 4)  # refused before anything was wrapped


def test_a_network_without_residual_branches_is_refused_with_a_way_out() -> None:
    with pytest.raises(InputError, match="sites="):
        insert_temporal_shift(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)))


def test_a_shifted_network_called_by_itself_says_how_to_call_it() -> None:
    network = build(3, backbone="resnet18", shift="causal")
    with pytest.raises(InputError, match="through its TemporalNetwork"):
        network.network(torch.zeros(1, 3, 32, 32))


def test_finding_the_state_shapes_leaves_the_network_as_it_was() -> None:
    network = build(3, backbone="mobilenetv2", shift="causal")
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.state_shapes(64, 64)
    assert network.training and network.network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
