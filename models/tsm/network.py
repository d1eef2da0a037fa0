"""TSM: a 2D network whose residual blocks exchange channels with neighbouring frames.

Lin, Gan and Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019; journal version "TSM: Temporal
Shift Module for Efficient and Scalable Video Understanding on Edge Devices", PAMI 2020.

One definition serves three uses: a bidirectional clip, a causal clip, and a stream of single frames. A shift site does not
know which: it asks the time that the network put in place around the call (`time.py`). The 2D network stays untouched.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from effvision.errors import InputError, ShapeError, StateError, StreamingError
from effvision.models.tsm.backbones import build_backbone
from effvision.models.tsm.nonlocal_block import NonLocalBlock
from effvision.models.tsm.residuals import residual_convolutions
from effvision.models.tsm.time import Clip, Direction, Probe, Stream, current, during
from effvision.ops.temporal_shift import temporal_pool
from effvision.state import State

__all__ = ["Direction", "TemporalNetwork", "build", "insert_temporal_shift", "randomise"]


class ShiftSite(nn.Module):
    """Shifts its input in time, then runs `net` on it. The name `net` is the published files' own."""

    def __init__(self, net: nn.Module, fold: int) -> None:
        super().__init__()
        self.net = net
        self.fold = fold

    def forward(self, x: Tensor) -> Tensor:
        """(N*T, C, H, W) -> what `net` gives for the shifted features."""
        time = current.get(None)
        if time is None:
            raise InputError("a network with temporal shift is called through its TemporalNetwork, not by itself")
        return self.net(time.shift(x, self.fold))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Show the fold in `print(network)`."""
        return f"fold={self.fold}"


class PoolSite(nn.Module):
    """Halves the frame rate, then runs `net`; every later layer sees the shorter clip."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """(N*T, C, H, W) -> what `net` gives for (N*ceil(T/2), C, H, W)."""
        time = current.get()
        x = temporal_pool(x, frames=time.frames)
        cast("Clip | Probe", time).halve()
        return self.net(x)  # type: ignore[no-any-return]


class NonLocalSite(nn.Module):
    """Runs `block`, then lets every position of the clip attend to every other (Wang et al., CVPR 2018)."""

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.block = block
        self.nl = NonLocalBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N*T, C, H, W) -> (N*T, C', H', W')."""
        return self.nl(self.block(x), frames=current.get().frames)  # type: ignore[no-any-return]


class TemporalNetwork(nn.Module):
    """A 2D network with shift sites, as one network over time.

    Attributes:
        network: The 2D network, shift sites inside.
        frames: T the network was built for; a causal network takes any T.
        direction: `bidirectional` (needs the whole clip), `causal` (also streams) or `none` (no site: frames are averaged).
    """

    def __init__(self, network: nn.Module, *, frames: int, direction: Direction) -> None:
        super().__init__()
        self.network = network
        self.frames = frames
        self.direction = direction

    def forward(self, clip: Tensor) -> Tensor:
        """Classify whole clips: the mean over time of the frames' logits (before softmax).

        Args:
            clip: (N, T, 3, H, W), float, already normalised, frames in order.

        Returns:
            Logits (N, K).

        Raises:
            ShapeError: `clip` is not 5-D.
        """
        return self.frame_logits(clip).mean(dim=1)

    def frame_logits(self, clip: Tensor) -> Tensor:
        """Return the logits of each frame, (N, T, 3, H, W) -> (N, T', K); T' is half of T after a temporal pool."""
        if clip.ndim != 5:
            raise ShapeError(f"`clip` must be (N, T, 3, H, W); got {tuple(clip.shape)}")
        time = Clip(clip.shape[1], self.direction)
        with during(time):
            logits = self.network(clip.flatten(0, 1))  # (N*T', K)
        return logits.reshape(clip.shape[0], time.frames, -1)  # type: ignore[no-any-return]

    def initial_state(self, batch: int, height: int, width: int) -> State:
        """Return the state of `batch` streams that have seen nothing: zeros, for frames of `height` x `width` pixels.

        Raises:
            StreamingError: the network needs the whole clip.
        """
        self._require_stream()
        like = next(self.parameters())
        shapes = self.state_shapes(height, width)
        return State(
            {
                f"state_{index}": torch.zeros((batch, *shape), dtype=like.dtype, device=like.device)
                for index, shape in enumerate(shapes)
            }
        )

    def state_shapes(self, height: int, width: int) -> list[tuple[int, ...]]:
        """Shapes (C', H', W') held by each site for frames of `height` x `width` pixels."""
        return self._hollow_pass(height, width)[0]

    def outputs(self, height: int, width: int) -> int:
        """K, the number of logits the network gives for a frame of `height` x `width` pixels."""
        return int(self._hollow_pass(height, width)[1].shape[-1])

    def _hollow_pass(self, height: int, width: int) -> tuple[list[tuple[int, ...]], Tensor]:
        """Send a frame through a copy of the network that computes nothing (meta tensors); safe beside other threads."""
        # the copy takes no memory: every tensor it meets is already answered for in the memo of deepcopy
        tensors = [*self.network.parameters(), *self.network.buffers()]
        hollow = copy.deepcopy(self.network, {id(tensor): _hollow(tensor) for tensor in tensors}).eval()
        probe = Probe()
        with during(probe), torch.no_grad():
            out = hollow(torch.zeros((1, 3, height, width), device="meta", dtype=next(self.parameters()).dtype))
        return probe.shapes, out

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance every stream by one frame.

        Args:
            frame: (N, 3, H, W), float, already normalised; one frame of each of N streams.
            state: From `initial_state` or the step before, for the same N, H and W. Consumed: do not use it again.

        Returns:
            Logits (N, K) of this frame, and the next state.

        Raises:
            StreamingError: the network needs the whole clip.
            StateError: the state has another number of streams or sites.
        """
        self._require_stream()
        if frame.ndim != 4:
            raise ShapeError(f"`frame` must be (N, 3, H, W); got {tuple(frame.shape)}")
        if state.batch not in (0, frame.shape[0]):
            raise StateError(f"the state holds {state.batch} streams but {frame.shape[0]} frames were given")
        logits, kept = self.advance(frame, list(state.values()))
        return logits, State(dict(zip(state, kept, strict=True)))

    def advance(self, frame: Tensor, held: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Do what `step` does with bare tensors in the order of the sites and no checks: the part that is traced for export."""
        time = Stream(held)
        with during(time):
            logits = self.network(frame)
        if len(time.kept) != len(held):
            raise StateError(f"the state holds {len(held)} arrays but the network has {len(time.kept)} shift sites")
        return logits, time.kept

    def sites(self) -> list[ShiftSite]:
        """The shift sites, in the order of the module tree."""
        return [module for module in self.modules() if isinstance(module, ShiftSite)]

    @property
    def streams(self) -> bool:
        """Whether the network can work frame by frame: not bidirectional, and no layer that looks at the whole clip."""
        return self.direction != "bidirectional" and self._whole_clip_layer() is None

    def _whole_clip_layer(self) -> nn.Module | None:
        return next((module for module in self.modules() if isinstance(module, (PoolSite, NonLocalSite))), None)

    def _require_stream(self) -> None:
        if self.direction == "bidirectional":
            raise StreamingError(
                "these weights are bidirectional: each frame was trained to see the next one, which a live stream does not "
                "have; running them frame by frame gives wrong labels, so it is refused\n"
                "hint: use `predict` on whole clips, or weights trained with shift='causal'"
            )
        whole = self._whole_clip_layer()
        if whole is not None:
            raise StreamingError(
                f"this network holds a {type(whole).__name__}, which looks at the whole clip; it cannot stream\n"
                "hint: use `predict` on whole clips, or a network without non_local and temporal_pool"
            )


def insert_temporal_shift(
    network: nn.Module,
    *,
    frames: int = 8,
    direction: Direction = "causal",
    fold: int = 8,
    sites: Sequence[str] | None = None,
) -> TemporalNetwork:
    """Make a residual 2D network temporal, in place: it keeps its weights and its module names.

    ICCV 2019, section 3.3: the shift sits inside the residual branch, so the shortcut keeps the frame's own features.

    Args:
        network: Any module (N, 3, H, W) -> (N, K). Its weights are kept; modules at the sites are wrapped.
        frames: T of the clips it will be trained on.
        direction: `causal` (past only; also streams), `bidirectional` (whole clips) or `none` (no shift: a frame-only control).
        fold: 1/fold of a site's channels moves (each way, if bidirectional), so it needs `fold` channels or more. The paper
            uses 8.
        sites: Names of the modules to shift before, as in `network.named_modules()`. By default the first convolution of every
            residual branch, found by tracing the network with `torch.fx`.

    Returns:
        The temporal network around `network`.

    Raises:
        InputError: a name in `sites` does not exist, a convolution there has fewer than `fold` channels, no residual branch was
            found, or the network cannot be traced.
    """
    if direction not in ("bidirectional", "causal", "none"):
        raise InputError(f"`direction` must be 'bidirectional', 'causal' or 'none'; got {direction!r}")
    if fold < 2 or frames < 1:
        raise InputError(f"`fold` must be 2 or more and `frames` 1 or more; got fold={fold}, frames={frames}")
    if direction != "none":
        names = residual_convolutions(network) if sites is None else list(sites)
        modules = dict(network.named_modules())
        for name in names:  # before anything is touched
            if name not in modules or not name:
                raise InputError(f"the network has no module named {name!r}; see `network.named_modules()`")
            if names.count(name) > 1 or any(other.startswith(f"{name}.") for other in names):
                raise InputError(f"`sites` names {name!r} twice, or something inside it too; a site shifts once")
            channels = getattr(modules[name], "in_channels", fold)  # what is no convolution does not say
            if isinstance(channels, int) and channels < fold:
                raise InputError(
                    f"{name!r} has {channels} channels; with fold={fold} a shift before it moves none\n"
                    "hint: give a smaller `fold`, or `sites` that leave it out"
                )
        for name in names:
            _replace(network, name, lambda module: ShiftSite(module, fold))
    return TemporalNetwork(network, frames=frames, direction=direction)


def build(
    classes: int,
    *,
    backbone: str,
    frames: int = 8,
    shift: Direction = "bidirectional",
    place: Literal["blockres", "block"] = "blockres",
    non_local: bool = False,
    temporal_pool: bool = False,
    width: float = 1.0,
    fold: int = 8,
    every_block: bool = False,
) -> TemporalNetwork:
    """Build an untrained TSM network as the paper's authors place the shifts.

    ResNets: every block, or every second one where a stage has 23 blocks or more. MobileNetV2: the ten blocks that have a
    shortcut; `every_block` also takes the other seven (ours, for networks trained from scratch).

    Args:
        classes: K.
        backbone: `resnet18`, `resnet50`, `resnet101` or `mobilenetv2`.
        frames: T of the training clips.
        shift: Direction of the shift; `none` averages frames (TSN).
        place: `blockres` shifts inside the residual branch, `block` before the whole block (ResNets only).
        non_local: Add the five embedded-Gaussian blocks of the paper's TSM-NL (ResNet-50 and -101; whole clips only).
        temporal_pool: Halve the frame rate before the second stage (ResNets; whole clips only).
        width: MobileNetV2 channel multiplier.
        fold: 1/fold of the channels moves each way.
        every_block: Shift in MobileNetV2 blocks without shortcut too.

    Raises:
        InputError: a value is not among those above, or two of them do not go together.
    """
    if not isinstance(backbone, str):
        raise InputError(f"`backbone` must be a name; got {type(backbone).__name__}")
    for what, number in (("classes", classes), ("frames", frames), ("fold", fold)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"`{what}` must be a whole number, 1 or more; got {number!r}")
    residual = backbone.startswith("resnet")
    if place not in ("blockres", "block"):
        raise InputError(f"`place` must be 'blockres' or 'block'; got {place!r}")
    if not residual and (place == "block" or non_local or temporal_pool):
        raise InputError(f"`place='block'`, `non_local` and `temporal_pool` are for ResNets; got {backbone}")
    if non_local and backbone == "resnet18":
        raise InputError("`non_local` is for resnet50 and resnet101; got resnet18")
    if residual and every_block:
        raise InputError(f"`every_block` is for mobilenetv2: ResNets shift every block already; got {backbone}")
    network = build_backbone(backbone, classes, width=width)
    sites = _resnet_sites(network, place) if residual else _mobilenet_sites(network, every_block)
    temporal = insert_temporal_shift(network, frames=frames, direction=shift, fold=fold, sites=sites)
    if non_local:
        for name in ("layer2.0", "layer2.2", "layer3.0", "layer3.2", "layer3.4"):
            channels = 512 if name.startswith("layer2") else 1024
            _replace(network, name, lambda module, channels=channels: NonLocalSite(module, channels))
    if temporal_pool:
        _replace(network, "layer2", PoolSite)
    return temporal


def _hollow(tensor: Tensor) -> Tensor:
    meta = tensor.detach().to("meta")
    return nn.Parameter(meta, requires_grad=False) if isinstance(tensor, nn.Parameter) else meta


def randomise(network: TemporalNetwork) -> TemporalNetwork:
    """Fill an untrained network, in place, with random weights whose outputs are neither tiny nor huge; returns it.

    Uses PyTorch's global generator: seed it first. For export checks, timing and tests.
    """
    # linear bottlenecks lose half their variance to each ReLU6; ResNets add it up along the shortcuts instead
    gain = 2.0 if any(isinstance(module, nn.ReLU6) for module in network.modules()) else 1.0
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
            nn.init.normal_(module.weight, std=(gain / module.weight[0].numel()) ** 0.5)
    return network


def _resnet_sites(network: nn.Module, place: str) -> list[str]:
    stages = {
        f"layer{stage}": len(cast(nn.Sequential, network.get_submodule(f"layer{stage}"))) for stage in range(1, 5)
    }
    if place == "block":
        return [f"{stage}.{index}" for stage, count in stages.items() for index in range(count)]
    every = 2 if max(stages.values()) >= 23 else 1
    return [f"{stage}.{index}.conv1" for stage, count in stages.items() for index in range(0, count, every)]


def _mobilenet_sites(network: nn.Module, every_block: bool) -> list[str]:
    blocks = [(name, module) for name, module in network.named_modules() if hasattr(module, "residual")]
    return [f"{name}.conv.0" for name, module in blocks if every_block or module.residual]


def _replace(network: nn.Module, name: str, wrap: Any) -> None:
    module = network.get_submodule(name)
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, wrap(module))
