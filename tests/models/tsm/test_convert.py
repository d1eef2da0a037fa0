"""Published layouts in, the authors' own numbers out."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effvision.errors import CheckpointError
from effvision.models.tsm.convert import canonical_keys, from_reference, load_weights
from effvision.models.tsm.network import build

_spec = importlib.util.spec_from_file_location("tsm_golden", Path(__file__).with_name("golden.py"))
assert _spec is not None and _spec.loader is not None
golden: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

CLIPS: dict[str, dict[str, Any]] = {
    "tsm_r18_8f": {"backbone": "resnet18"},
    "tsm_r50_8f": {"backbone": "resnet50"},
    "tsm_mbv2_8f": {"backbone": "mobilenetv2"},
    "tsm_r50_nl_8f": {"backbone": "resnet50", "non_local": True},
    "tsm_r50_tpool_8f": {"backbone": "resnet50", "temporal_pool": True},
    "tsm_r50_block_8f": {"backbone": "resnet50", "place": "block"},
    "tsn_r50_8f": {"backbone": "resnet50", "shift": "none"},
}


def near(got: torch.Tensor, wanted: np.ndarray) -> None:
    """The golden vectors' own tolerance: 1e-4 of the largest value (convolution libraries differ by less)."""
    limit = 1e-4 * float(np.abs(wanted).max())
    np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=limit)


@pytest.mark.parametrize("name", CLIPS)
@torch.inference_mode()
def test_golden_clip_logits_and_features(name: str, shared: Path) -> None:
    network = from_reference(golden.weights(shared, name), **CLIPS[name])
    wanted = golden.load(shared, f"{name}.npz")
    frames = golden.clips(shared, wanted["logits"].shape[0], 8)
    probes: dict[str, np.ndarray] = {}
    for key in wanted.files:
        if key.startswith("probe/"):
            layer = key.removeprefix("probe/")
            network.network.get_submodule(layer).register_forward_hook(
                lambda module, args, output, key=key: probes.__setitem__(key, probe(output))
            )
    logits = network.frame_logits(frames)
    near(logits.flatten(0, 1), wanted["frame_logits"])
    near(logits.mean(1), wanted["logits"])
    assert probes
    for key, value in probes.items():
        np.testing.assert_allclose(value, wanted[key], rtol=1e-4, atol=1e-4 * float(wanted[key][2]), err_msg=key)


def probe(output: torch.Tensor) -> np.ndarray:
    flat = output.double().flatten().numpy()
    picked = flat[np.linspace(0, flat.size - 1, 16).astype(np.int64)]
    return np.concatenate([[flat.mean(), flat.std(), np.abs(flat).max(), np.sqrt((flat**2).sum())], picked])


@torch.inference_mode()
def test_golden_online_stream_its_states_and_its_memory(shared: Path) -> None:
    network = from_reference(golden.weights(shared, "online_mbv2_27"), backbone="mobilenetv2", shift="causal")
    wanted = golden.load(shared, "online_mbv2_27.npz")
    frames = golden.clips(shared, 1, 12)
    state = network.initial_state(1, 224, 224)
    steps, forgetful = [], []
    for time in range(12):
        forgetful.append(network.step(frames[:, time], network.initial_state(1, 224, 224))[0])
        logits, state = network.step(frames[:, time], state)
        steps.append(logits)
    near(torch.cat(steps), wanted["logits"])
    near(torch.cat(forgetful), wanted["logits_no_memory"])
    for index, array in enumerate(state.values()):
        near(array, wanted[f"state_after_12/{index}"])
    near(network.frame_logits(frames)[0], wanted["logits"])


@torch.inference_mode()
def test_golden_keys_of_every_layout_fit(shared: Path) -> None:
    """ResNet-101 has keys only; the layouts differ by prefix, level and name of the last layer."""
    plain = golden.weights(shared, "tsm_r101_8f")
    network = from_reference(plain, backbone="resnet101")
    assert len(network.sites()) == 18
    small = golden.weights(shared, "tsm_mbv2_8f")
    layouts = [
        {"state_dict": {f"module.{key}": value for key, value in small.items()}},
        {f"module.{key}": value for key, value in small.items()},
        {key.replace("new_fc", "base_model.classifier"): value for key, value in small.items()},
        {
            key.replace("base_model.", "").replace(".net.", ".").replace("new_fc", "classifier"): v
            for key, v in small.items()
        },
    ]
    frames = golden.clips(shared, 1, 2)
    wanted = from_reference(small, backbone="mobilenetv2")(frames)
    for layout in layouts:
        assert torch.equal(from_reference(layout, backbone="mobilenetv2")(frames), wanted)


def published(**settings: Any) -> dict[str, torch.Tensor]:
    """A checkpoint in the published offline layout, from our own network."""
    network = build(4, **settings)
    return {f"module.base_model.{key.removeprefix('network.')}": value for key, value in network.state_dict().items()}


def test_a_wrong_setting_is_named_with_the_keys_that_do_not_fit() -> None:
    with pytest.raises(CheckpointError, match="keys missing"):
        from_reference(published(backbone="resnet18"), backbone="resnet50")
    with pytest.raises(CheckpointError, match=r"left over \(`layer2.0.nl"):
        from_reference(
            {**published(backbone="resnet50"), "module.base_model.layer2.0.nl.g.0.weight": torch.zeros(1)},
            backbone="resnet50",
        )


def test_a_tensor_of_another_shape_is_named() -> None:
    tensors = published(backbone="mobilenetv2", width=0.5)
    with pytest.raises(CheckpointError, match="another shape"):
        from_reference(tensors, backbone="mobilenetv2")


@pytest.mark.parametrize(
    "given", [{}, {"a": torch.zeros(1)}, {"state_dict": 3}, {"state_dict": {"a": "text"}}, {1: torch.zeros(1)}]
)
def test_what_is_no_checkpoint_is_refused(given: Any) -> None:
    with pytest.raises(CheckpointError):
        from_reference(given, backbone="resnet18")


def test_missing_counters_of_batch_normalisation_are_fine_and_a_missing_weight_is_not() -> None:
    tensors = canonical_keys(published(backbone="mobilenetv2", width=0.35))
    without = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    network = build(4, backbone="mobilenetv2", width=0.35)
    assert not load_weights(network, without).training
    without.pop("features.3.conv.0.weight")
    with pytest.raises(CheckpointError, match=r"1 keys missing \(`features.3.conv.0.weight`\)"):
        load_weights(network, without)


def test_weights_that_are_not_finite_or_come_twice_are_refused() -> None:
    tensors = published(backbone="mobilenetv2", width=0.35)
    name = next(iter(tensors))
    with pytest.raises(CheckpointError, match=f"`{name}` holds NaN or infinity"):
        canonical_keys({**tensors, name: torch.full_like(tensors[name], float("nan"))})
    with pytest.raises(CheckpointError, match="twice"):
        canonical_keys({**tensors, "new_fc.weight": torch.zeros(4, 1280)})
    with pytest.raises(CheckpointError, match="NoneType"):
        from_reference(None, backbone="resnet18")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*(Sparse|quantized tensor|nested tensors|TypedStorage)")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.to_sparse(), r"sparse_coo.*to_dense\(\)"),
        (lambda w: w.flatten(1).to_sparse_csr(), r"sparse_csr.*to_dense\(\)"),
        (lambda w: torch.nested.nested_tensor([w, w]), r"nested"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), r"quantised.*qint8.*dequantize\(\)"),
        (lambda w: w.to("meta"), r"no values"),
        (lambda w: w.to(torch.complex64), r"complex64"),
        (lambda w: w.numpy().astype(complex), r"complex128"),
        (lambda w: w > 0, r"bool"),
        (lambda w: w.to(torch.int8), r"int8"),
        (lambda w: w.to(torch.float8_e4m3fn), r"float8_e4m3fn"),
    ],
)
def test_weights_of_a_kind_that_is_no_dense_real_tensor_are_refused_by_name(change: Any, said: str) -> None:
    tensors = published(backbone="mobilenetv2", width=0.35)
    counter = next(key for key in tensors if key.endswith("num_batches_tracked"))
    with pytest.raises(CheckpointError, match=rf"`{counter}` is of torch.bool"):
        canonical_keys({**tensors, counter: tensors[counter] > 0})
    name = next(iter(tensors))
    with pytest.raises(CheckpointError, match=rf"(?s)`{name}` .*{said}") as caught:
        canonical_keys({**tensors, name: change(tensors[name])})
    assert "hint: " in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_floating_precision_are_taken(dtype: torch.dtype) -> None:
    tensors = published(backbone="mobilenetv2", width=0.35)
    given = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}
    network = load_weights(build(4, backbone="mobilenetv2", width=0.35), canonical_keys(given))
    assert {value.dtype for value in network.parameters()} == {torch.float32}
