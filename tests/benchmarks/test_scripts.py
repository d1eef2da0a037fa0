"""The benchmark scripts run to their end and say everything they promise. How fast anything is, no test can tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from effvision.cards import list_cards

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
KEYS = {
    "tsm_streaming.py": {
        "stream_over_2d",
        "sliding_over_stream",
        "baseline_over_stream",
        "prepost_ms_synthetic",
        "floor_ratio",
        "growth_mb_10k_synthetic",
        "state_constant",
        "first_label_s",
    },
    "tsm_soak.py": {"growth_mb_1k_synthetic", "state_constant", "state_finite", "state_repeats", "steps_of_updates"},
    "tsm_streams.py": {
        f"{key}_{streams}" for key in ("frames_per_s", "batched_over_single") for streams in (1, 2, 4, 8, 16)
    },
    "export.py": {
        "size_over_weights",
        "export_s",
        "identical",
        "int8_time",
        "int8_size",
        "int8_lost",
        "int8_trt_lost",
    },
    "map.py": {"efficiency_2", "lost", "repeated"},
    "pvcnn.py": {
        "pointnet_over_pvcnn_4096",
        "pointnet_over_pvcnn_32768",
        "baseline_over_ours_4096",
        "baseline_vox_devox_over_ours_8192",
        "baseline_over_ort_4096",
        "floor_ratio_8192",
        "baseline_over_ours_4096_filled",
        "parts_pointnet_over_pvcnn_4096",
        "parts_pointnet_over_pvcnn_32768",
        "ours_differs",
        "points_per_s",
    },
    "lidarhd.py": {"pvcnn_over_synthetic", "growth_mb_synthetic", "weights_kb"},
    "sige.py": {
        "real_edit_synthetic",
        "edit_1p2_synthetic",
        "edit_5_synthetic",
        "network_over_share_synthetic",
        "conv_1",
        "conv_5",
        "conv_15",
        "conv_30",
        "conv_mask_synthetic",
        "cache_share",
        "worst_over_dense",
        "worst_over_dense_conv",
        "ours_differs",
    },
    "sparse_conv.py": {
        "floor_ratio_synthetic",
        "map_share_synthetic",
        "growth_mb_synthetic",
        "baseline_over_ours_synthetic",
        "ours_differs",
    },
    "tracking.py": {
        "own_auc_keys5_synthetic",
        "own_auc_keys10_synthetic",
        "auc_alone_synthetic",
        "wrong_unsaid_synthetic",
        "false_lost_synthetic",
        "false_lost_of_right_synthetic",
        "floor_ratio_32",
        "skip_speedup_synthetic",
    },
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not all(find_spec(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")),
        reason="exporting needs PyTorch, ONNX and ONNX Runtime",
    ),
]


def run(script: str, *arguments: str) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, str(SCRIPTS / script), "--smoke", "--json", *arguments]
    # Two threads, as the figures are meant. They wait asleep, not in a busy loop: something else may have one of the cores.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    return "\n".join(lines), json.loads(last)


def test_streaming_tells_every_key_last_and_runs_without_the_sample_video(tmp_path: Path) -> None:
    said, found = run("tsm_streaming.py", "--data", str(tmp_path))
    assert set(found) == {*KEYS["tsm_streaming.py"], "missed", "mode", "details", "machine"}
    assert found["details"]["baseline_differs"] < 1e-4
    assert found["state_constant"] is True
    assert found["machine"]["threads"]["torch"] == 2
    assert "https://github.com/intel-iot-devkit/sample-videos/" in said
    assert "random weights" in said
    assert all(key in said for key in KEYS["tsm_streaming.py"])


def test_the_soak_tells_every_key_and_finds_the_same_state_after_every_loop(tmp_path: Path) -> None:
    _, found = run("tsm_soak.py", "--data", str(tmp_path))
    assert set(found) == {*KEYS["tsm_soak.py"], "missed", "mode", "details", "machine"}
    assert all(found[key] is True for key in ("state_constant", "state_finite", "state_repeats"))
    assert found["steps_of_updates"] == 1 and sum(found["details"]["labels"].values()) == 1000


def test_streams_tell_every_key_for_both_models_and_both_ways_agree() -> None:
    said, found = run("tsm_streams.py")
    assert set(found) == {*KEYS["tsm_streams.py"], "missed", "mode", "details", "machine"}
    for key in KEYS["tsm_streams.py"]:
        assert set(found[key]) == {"tsm-mobilenetv2-motion", "tsm-mobilenetv2-jester"}
        assert all(value > 0 for value in found[key].values())
    assert max(found["details"]["batched_differs"].values()) < 1e-4
    assert "random weights (timing only)" in said and found["details"]["gemm_gflops"] > 0


def test_export_tells_every_key_for_every_family() -> None:
    _, found = run("export.py")
    assert set(found) == {*KEYS["export.py"], "missed", "mode", "details", "machine"}
    families = {card.family for card in list_cards() if card.default}
    for key in KEYS["export.py"]:
        assert set(found[key]) == ({"tsm"} if key.startswith("int8") else families)
    assert found["details"]["pvcnn, int8"] == {"refused": "this family has no int8"}
    assert all(found["identical"].values())


def test_point_voxel_networks_tell_every_key_and_all_forms_agree() -> None:
    said, found = run("pvcnn.py")
    assert set(found) == {*KEYS["pvcnn.py"], "missed", "mode", "details", "machine"}
    assert max(found["details"]["baseline_differs"].values()) < 1e-5
    assert "random weights: timing only" in said


def test_editing_tells_every_key_and_equals_the_baseline(tmp_path: Path) -> None:
    said, found = run("sige.py", "--data", str(tmp_path))
    assert set(found) == {*KEYS["sige.py"], "missed", "mode", "details", "machine"}
    assert found["ours_differs"] < 1e-4 and 0 < found["cache_share"] < 1
    for key, pixels in (("real_edit", 0.01), ("edit_1p2", 0.012), ("edit_5", 0.05)):
        told = found["details"][key]
        assert told["pixels changed"] == pytest.approx(pixels, rel=0.5)
        assert told["local"] > told["no update"] and told["reference"] > told["no update"]
        assert 0 < told["computed, local"] < 1
    assert "https://github.com/lmxyy/sige" in said and "random weights: timing only" in said


def test_sparse_convolution_tells_every_key_and_equals_the_plain_form(tmp_path: Path) -> None:
    said, found = run("sparse_conv.py", "--data", str(tmp_path))
    assert set(found) == {*KEYS["sparse_conv.py"], "missed", "mode", "details", "machine"}
    assert found["ours_differs"] < 1e-5 and found["details"]["voxels"] == 1500
    assert sum(int(name.rpartition(", ")[2]) for name in found["details"]["layers"]) == 34
    assert "https://github.com/mit-han-lab/spvnas" in said and "spconv is left out" in said


def test_networks_for_lidar_from_the_air_tell_every_key(tmp_path: Path) -> None:
    said, found = run("lidarhd.py", "--data", str(tmp_path))
    assert set(found) == {*KEYS["lidarhd.py"], "missed", "mode", "details", "machine"}
    assert set(found["growth_mb_synthetic"]) == {"pvcnn", "spvcnn", "minkunet"}
    assert all(value > 0 for value in found["pvcnn_over_synthetic"].values())
    assert "https://github.com/IGNF/ign-pdal-tools" in said


def test_tracking_tells_every_key_and_runs_without_sequences_and_without_the_rival(tmp_path: Path) -> None:
    said, found = run("tracking.py", "--data", str(tmp_path))
    assert set(found) == {*KEYS["tracking.py"], "missed", "mode", "details", "machine"}
    assert found["details"]["skip"]["keys"] == 2 and found["details"]["skip"]["frames"] == 14
    assert found["own_auc_keys5_synthetic"] > 0.8 and found["false_lost_synthetic"] == 0
    assert "https://github.com/RalphMao/PatchNet" in said and "CSRT is left out" in said


def test_many_files_tell_every_key_and_a_kill_costs_no_row() -> None:
    pytest.importorskip("pyarrow")
    _, found = run("map.py")
    assert set(found) == {*KEYS["map.py"], "missed", "mode", "details", "machine"}
    assert found["efficiency_2"] > 0 and found["lost"] == found["repeated"] == 0
    told = found["details"]["killed, local"]
    assert told["rows"] == 100 and 0 <= told["rows_at_kills"][0] < 100
