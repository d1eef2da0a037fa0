"""Published layouts in, the authors' own numbers out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effvision.errors import CheckpointError, InputError
from effvision.models.pvcnn.convert import VARIANTS, canonical_keys, from_reference
from effvision.models.pvcnn.frustum import SIZE_TEMPLATES, FrustumBoxes, FrustumPVCNN, FrustumSegmentation
from effvision.models.pvcnn.fusing import fuse
from effvision.models.pvcnn.network import PVCNN2, PointNet, s3dis, shapenet

NAMES = [
    "s3dis_pvcnn_c0p125",
    "s3dis_pvcnn_c0p25",
    "shapenet_pvcnn_c0p25",
    "s3dis_pvcnn2_c0p5",
    "kitti_frustum_pvcnne_seg",
    "kitti_frustum_pvcnne_box",
]
RELATIVE = 2e-4  # of the output's standard deviation: the tolerance stated with the golden vectors


def near(got: Tensor, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=RELATIVE * float(wanted.std()))


@pytest.mark.parametrize("fused", [False, True], ids=["as stored", "fused"])
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_golden_output_and_features(name: str, fused: bool, golden: Any, shared: Path) -> None:
    case, stored = golden.CASES[name], golden.load(shared, name)
    network = from_reference(golden.weights(shared, name), variant=case.variant, width=case.width)
    network = fuse(network) if fused else network
    taps = {key.removeprefix("tap."): stored[key] for key in stored.files if key.startswith("tap.")}
    found: dict[str, Tensor] = {}
    for layer in taps:
        module = network.get_submodule(layer)
        last = module[-1] if isinstance(module, nn.Sequential) else module  # a level's layers are called one by one
        last.register_forward_hook(
            lambda module, args, output, layer=layer: found.__setitem__(layer, first(output).transpose(1, 2))
        )
    output = network(*golden.inputs(shared, name))
    near(output, stored["output"])
    same_choice(output, torch.from_numpy(stored["output"]))
    assert set(found) == set(taps)
    for layer, features in found.items():
        near(features[:, :, :: features.shape[2] // 16][:, :, :16], taps[layer])
        mean, deviation, largest = stored[f"tapstat.{layer}"]
        close = pytest.approx
        assert close(mean, abs=1e-4 * deviation) == float(features.mean())
        assert close(deviation, rel=1e-3) == float(features.std())
        assert close(largest, rel=1e-3) == float(features.abs().max())


def first(output: Any) -> Tensor:
    """Features; a set abstraction gives coordinates too."""
    return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]


def same_choice(got: Tensor, wanted: Tensor) -> None:
    """The likeliest class of every point is the golden one, or ties with it.

    Of 4096 golden points one has two classes 5e-7 apart at 6.0, a single unit in the last place of a float32.
    """
    chosen = wanted.gather(1, got.argmax(1, keepdim=True))
    assert bool((wanted.amax(1, keepdim=True) - chosen <= 1e-6).all())


@torch.inference_mode()
def test_golden_weights_in_float64_choose_the_golden_class_everywhere(golden: Any, shared: Path) -> None:
    name = "s3dis_pvcnn_c0p25"
    network = from_reference(golden.weights(shared, name), variant="s3dis", width=0.25).double()
    output = network(golden.inputs(shared, name)[0].double())
    wanted = golden.load(shared, name)["output"]
    np.testing.assert_allclose(output.numpy(), wanted, rtol=0, atol=2e-6)
    assert np.array_equal(output.argmax(1).numpy(), wanted.argmax(1))


@torch.inference_mode()
def test_golden_box_head_through_the_whole_pipeline_s_file(golden: Any, shared: Path) -> None:
    """One published file holds all three networks, and each variant takes its own."""
    whole = golden.weights(shared, "kitti_frustum_pvcnne_seg") | golden.weights(shared, "kitti_frustum_pvcnne_box")
    whole["size_templates"] = np.array([list(SIZE_TEMPLATES.values())], dtype=np.float32)
    published = {"model": {f"module.{key}": value for key, value in whole.items()}, "epoch": 3}
    for name in ("kitti_frustum_pvcnne_seg", "kitti_frustum_pvcnne_box"):
        network = from_reference(published, variant=golden.CASES[name].variant)
        near(network(*golden.inputs(shared, name)), golden.load(shared, name)["output"])
    pipeline = from_reference(published, variant="kitti-frustum")
    assert isinstance(pipeline, FrustumPVCNN)
    points, one_hot = golden.inputs(shared, "kitti_frustum_pvcnne_seg")
    estimate = pipeline(points, one_hot, generator=torch.Generator().manual_seed(0))
    near(estimate.mask_logits, golden.load(shared, "kitti_frustum_pvcnne_seg")["output"])


BUILT: dict[str, Any] = {
    "s3dis": lambda width: s3dis(5, channels=7, width=width),
    "shapenet": lambda width: shapenet(7, channels=4, width=width),
    "s3dis++": lambda width: PVCNN2(4, channels=6, width=width),
    "pointnet-s3dis": lambda width: PointNet(6, width=width),
    "kitti-frustum-seg": lambda width: FrustumSegmentation(width=width, channels=3),
    "kitti-frustum-box": lambda width: FrustumBoxes(width=width),
    "kitti-frustum": lambda width: FrustumPVCNN(width=width),
}


def state(variant: str, width: float = 0.25) -> dict[str, Tensor]:
    return dict(BUILT[variant](width).state_dict())


def test_every_variant_can_be_built_here() -> None:
    assert set(BUILT) == set(VARIANTS)


@pytest.mark.parametrize("variant", BUILT)
@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {f"module.{k}": v for k, v in s.items()}]
)
def test_every_layout_of_every_variant_comes_back_with_its_own_classes_and_channels(variant: str, wrap: Any) -> None:
    given = state(variant)
    network = from_reference(wrap(given), variant=variant, width=0.25)
    assert not network.training
    assert all(torch.equal(value, given[key]) for key, value in network.state_dict().items())
    assert list(network.state_dict()) == list(given)


@pytest.mark.parametrize("variant", BUILT)
@pytest.mark.parametrize("width", [0.125, 0.5, 1.0])
def test_a_wrong_width_is_named_with_the_right_one(variant: str, width: float) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_reference(state(variant), variant=variant, width=width)
    assert f"hint: it looks like variant={variant!r}, width=0.25; given were" in str(caught.value)


FITTING = {("kitti-frustum", "kitti-frustum-seg"), ("kitti-frustum", "kitti-frustum-box"), *((v, v) for v in BUILT)}
WRONG = [(variant, other) for variant in BUILT for other in BUILT if (variant, other) not in FITTING]


@pytest.mark.parametrize(("variant", "other"), WRONG)
def test_a_wrong_variant_is_named_with_the_right_one(variant: str, other: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_reference(state(variant), variant=other, width=0.25)
    assert f"hint: it looks like variant={variant!r}, width=0.25" in str(caught.value)


def test_missing_and_left_over_keys_are_counted_and_named() -> None:
    given = state("s3dis")
    lost = given.pop("point_features.0.voxel_layers.0.weight")
    with pytest.raises(
        CheckpointError, match=r"1 keys missing \(`point_features.0.voxel_layers.0.weight`\), 0 left over"
    ):
        from_reference(given, variant="s3dis", width=0.25)
    with pytest.raises(
        CheckpointError, match=r"0 keys missing \(none\), 1 left over \(`more`\).*\nhint: variant and width"
    ):
        from_reference(
            {**given, "point_features.0.voxel_layers.0.weight": lost, "more": lost}, variant="s3dis", width=0.25
        )


def test_a_tensor_of_another_shape_is_named() -> None:
    given = state("s3dis")
    given["point_features.1.voxel_layers.0.weight"] = torch.zeros(16, 16, 5, 5, 5)
    with pytest.raises(CheckpointError, match=r"(?s)first `point_features.1.*\(16, 16, 5, 5, 5\) in the checkpoint"):
        from_reference(given, variant="s3dis", width=0.25)


def test_missing_counters_of_batch_normalisation_and_templates_are_fine() -> None:
    given = {
        key: value
        for key, value in state("kitti-frustum").items()
        if not key.endswith("num_batches_tracked") and key != "size_templates"
    }
    network = from_reference(given, variant="kitti-frustum", width=0.25)
    assert network.get_buffer("size_templates")[0, 0].tolist() == pytest.approx([3.883, 1.629, 1.526])


@pytest.mark.parametrize(
    "given", [{}, {"a": torch.zeros(1)}, {"model": 3}, {"model": {"a": "text"}}, {1: torch.zeros(1)}, None]
)
@pytest.mark.parametrize("variant", BUILT)
def test_what_is_no_checkpoint_is_refused(given: Any, variant: str) -> None:
    with pytest.raises(CheckpointError):
        from_reference(given, variant=variant)


def test_weights_that_are_not_finite_or_come_twice_are_refused() -> None:
    given = state("pointnet-s3dis")
    name = next(iter(given))
    with pytest.raises(CheckpointError, match=f"`{name}` holds NaN or infinity"):
        canonical_keys({**given, name: torch.full_like(given[name], torch.nan)})
    with pytest.raises(CheckpointError, match="twice"):
        canonical_keys({**given, f"module.{name}": given[name]})
    with pytest.raises(CheckpointError, match=r"torch.int32.*\nhint: save the weights as real numbers"):
        canonical_keys({**given, name: given[name].int()})


@pytest.mark.parametrize("width", [0, -1, float("nan"), True, "1", 17])
def test_a_width_that_is_none_is_refused(width: Any) -> None:
    with pytest.raises(InputError, match=r"such as 0\.25 or 1; got"):
        from_reference(state("pointnet-s3dis"), variant="pointnet-s3dis", width=width)


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"s3dis, shapenet, s3dis\+\+.*got 'modelnet'"):
        from_reference({}, variant="modelnet")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_floating_precision_are_taken(dtype: torch.dtype) -> None:
    given = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state("s3dis").items()}
    network: nn.Module = from_reference(given, variant="s3dis", width=0.25)
    assert {value.dtype for value in network.parameters()} == {torch.float32}
