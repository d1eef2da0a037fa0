"""These networks know nothing of edits: the engine makes each of them incremental as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from effvision.incremental import make_incremental  # noqa: E402
from effvision.models.sige.network import SpadeGenerator  # noqa: E402
from effvision.models.sige.pix2pix import ResNetGenerator, UNetGenerator  # noqa: E402

NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, int]]] = {
    "spade": (lambda: SpadeGenerator(4, width=2), (128, 192)),
    "spade of an odd size": (lambda: SpadeGenerator(4, width=2, upsampling="normal"), (75, 109)),
    "spade, instance": (lambda: SpadeGenerator(4, width=2, norm="instance"), (128, 192)),
    "resnet, batch": (lambda: ResNetGenerator(4, width=4, blocks=2, norm="batch", dropout=True), (64, 80)),
    "resnet": (lambda: ResNetGenerator(4, width=4, blocks=2), (64, 80)),
    "resnet of an odd size": (lambda: ResNetGenerator(4, width=4, blocks=2), (61, 47)),
    "unet": (lambda: UNetGenerator(4, width=2, levels=5), (256, 256)),
    "unet, instance": (lambda: UNetGenerator(4, width=2, levels=5, norm="instance"), (256, 256)),
}


def seeded(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    network = make()
    for name, value in network.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(generator=generator)
            if value.ndim > 1:
                value.mul_((1.5 / value[0].numel()) ** 0.5)
    return network.double().eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_an_edit_in_mode_exact_gives_the_full_pass(name: str) -> None:
    make, size = NETWORKS[name]
    network = seeded(make)
    before = torch.rand(1, 4, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    after = before.clone()
    after[:, :, 20:26, 30:41] += 1
    engine = make_incremental(network, before, mode="exact")
    engine.update(before)
    with torch.inference_mode():
        wanted, unedited = network(after), network(before)
    assert not torch.equal(wanted, unedited)
    torch.testing.assert_close(engine.update(after).output, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(engine.undo(), unedited, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_mode_local_computes_a_part_and_leaves_the_far_corner_alone(name: str) -> None:
    make, size = NETWORKS[name]
    network = seeded(make)
    before = torch.rand(1, 4, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    after = before.clone()
    after[:, :, :6, :6] += 1
    engine = make_incremental(network, before, mode="local")
    first = engine.update(before).output.clone()
    update = engine.update(after)
    assert 0 < update.computed_fraction < 1
    assert not torch.equal(update.output[:, :, :6, :6], first[:, :, :6, :6])
    assert torch.equal(update.output[:, :, -8:, -8:], first[:, :, -8:, -8:])
    assert not engine.report.dense, engine.report.dense
