"""The shared parts of the benchmarks: counting, ratios, limits, where the data comes from."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _cores import round_trip_ns  # noqa: E402
from _machine import GEMM, Contender, DataFile, Figure, Times, count_multiply_adds, floor_ratio, interleave  # noqa: E402
from torch import nn  # noqa: E402


def test_multiply_adds_are_those_counted_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),  # out 4x5x6, each 3*3*3: 3240
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),  # out 4x5x6, each 9: 1080
        nn.Flatten(),
        nn.Linear(120, 7),  # 840
    ).eval()
    counted = count_multiply_adds(network, lambda: network(torch.zeros(1, 3, 10, 12)))
    assert counted == 4 * 5 * 6 * 27 + 4 * 5 * 6 * 9 + 120 * 7


def test_a_layer_called_twice_counts_twice_and_one_not_called_not_at_all() -> None:
    network = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])
    assert count_multiply_adds(network, lambda: network[0](network[0](torch.zeros(2, 5)))) == 2 * 2 * 25


def test_a_layer_without_a_rule_is_refused_and_leaves_no_hook() -> None:
    network = nn.GRU(3, 3)
    with pytest.raises(TypeError, match="GRU"):
        count_multiply_adds(network, lambda: network(torch.zeros(1, 1, 3)))
    network(torch.zeros(1, 1, 3))


def test_the_floor_is_the_time_of_the_work_at_the_rate_of_the_matrix_product() -> None:
    times = Times({"ours": [0.2, 0.4, 0.9], GEMM: [0.1, 0.1, 0.5]})
    assert math.isclose(floor_ratio(times, "ours", 1024**3), 4.0)


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    times = Times({"a": [1.0, 20.0, 3.0], "b": [1.0, 10.0, 1.0]})
    assert times.ratio("a", "b") == 2.0


def test_every_contender_runs_in_every_round_and_one_round_is_thrown_away() -> None:
    calls: list[str] = []
    contenders = {name: Contender(lambda name=name: calls.append(name), repeats=3, settle=2) for name in "abc"}
    times = interleave(contenders, rounds=4)
    assert {name: len(times.rounds[name]) for name in "abc"} == dict.fromkeys("abc", 4)
    assert {name: calls.count(name) for name in "abc"} == dict.fromkeys("abc", 5 * 5)
    assert len({"".join(calls[start : start + 15]) for start in range(0, 75, 15)}) > 2  # the order changes


@pytest.mark.parametrize(
    ("value", "limit", "holds"),
    [
        (1.05, ("<=", 1.05), True),
        (5.0, ("<", 5.0), False),
        (7.9, (">=", 8.0), False),
        (math.nan, ("<=", 1.0), False),
        (True, ("is", True), True),
        (1.0, None, None),
    ],
)
def test_a_limit_is_kept_or_missed(value: float | bool, limit: tuple[str, float | bool] | None, holds: bool) -> None:
    assert Figure("key", value, limit).holds is holds


def test_absent_data_is_named_with_its_address_and_checksum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = DataFile("video/a.mp4", "https://example.org/a.mp4", "0" * 64)
    assert file.find(tmp_path) is None
    said = capsys.readouterr().out
    assert "https://example.org/a.mp4" in said
    assert "0" * 64 in said


def test_another_copy_of_the_data_is_used_and_said_to_be_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"other")
    assert DataFile("a.mp4", "https://example.org/a.mp4", "0" * 64).find(tmp_path) == tmp_path / "a.mp4"
    assert "another SHA-256" in capsys.readouterr().out


def test_the_way_from_core_to_core_is_measured_or_said_to_be_unknown() -> None:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    trip = round_trip_ns()
    assert trip is None or 10 < trip < 1_000_000
    assert before is None or os.sched_getaffinity(0) == before
