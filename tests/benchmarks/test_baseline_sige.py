"""The eager baseline of GauGAN is another program for the same function."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from baselines.sige import PlainGauGAN  # noqa: E402

from effvision.models.sige.network import SpadeGenerator  # noqa: E402

RENAMED = (
    ("fc.", "start."),
    ("conv_img.", "picture."),
    ("mlp_shared.0.", "shared."),
    ("conv_0.", "first."),
    ("conv_1.", "second."),
    ("conv_s.", "shortcut."),
    ("norm_s.", "norms.2."),
    ("norm_", "norms."),
    ("param_free_norm.", "normalise."),
    ("mlp_gamma_beta.", "both."),
    *((f"{name}.", f"blocks.{n}.") for n, name in enumerate(("head_0", "G_middle_0", "G_middle_1"))),
    *((f"up_{n}.", f"blocks.{n + 3}.") for n in range(4)),
)


def renamed(key: str) -> str:
    """Our key in the words of the baseline."""
    for ours, theirs in RENAMED:
        key = key.replace(ours, theirs)
    return key


@torch.inference_mode()
def test_baseline_draws_our_picture_with_our_multiply_adds() -> None:
    from _machine import count_multiply_adds

    generator = torch.Generator().manual_seed(0)
    ours = SpadeGenerator(5, width=2).double().eval()
    for name, value in ours.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(generator=generator)
            if value.ndim > 1:
                value.mul_((1.5 / value[0].numel()) ** 0.5)
    baseline = PlainGauGAN(5, width=2).double().eval()
    baseline.load_state_dict({renamed(key): value for key, value in ours.state_dict().items()})
    labels = torch.rand(2, 5, 64, 128, generator=generator, dtype=torch.float64)
    wanted = ours(labels)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(baseline(labels), wanted, rtol=0, atol=1e-12)
    counts = [count_multiply_adds(network, lambda network=network: network(labels)) for network in (ours, baseline)]
    assert counts[0] == counts[1] > 1e7
