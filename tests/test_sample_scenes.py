"""Generated villages: seeded, with every field, and what their labels say can be seen in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effvision.errors import InputError, SourceError
from effvision.host.ground import heights_above_ground
from effvision.sample_scenes import LABELS, sample_scene, small_scene, write_generated
from effvision.sources import open_cloud


def test_a_seed_makes_one_village() -> None:
    one, same, other = sample_scene(3, side_m=30.0), sample_scene(3, side_m=30.0), sample_scene(4, side_m=30.0)
    np.testing.assert_array_equal(one.xyz, same.xyz)
    for name, values in one.fields.items():
        np.testing.assert_array_equal(values, same.fields[name])
    assert len(other) != len(one) or not np.array_equal(other.xyz, one.xyz)


def test_houses_and_trees_stand_above_the_ground() -> None:
    cloud = sample_scene(0)
    label, height = cloud.field("label"), heights_above_ground(cloud.xyz)[0]
    assert set(np.unique(label)) == set(range(1, len(LABELS)))
    ground, low, tree, building = (float(np.median(height[label == each])) for each in range(1, 5))
    assert abs(ground) < 0.2 < low < 2 < min(tree, building)
    assert (cloud.field("return_number") <= cloud.field("num_returns")).all()
    np.testing.assert_allclose(np.linalg.norm(cloud.field("normal"), axis=1), 1, atol=1e-5)
    assert len(cloud) / 90**2 == pytest.approx(6.0, rel=0.5)


def test_a_small_scene_is_small() -> None:
    assert all(800 < len(small_scene(seed)) < 4000 for seed in range(4))


def test_a_generated_cloud_is_written_with_its_fields(tmp_path: Path) -> None:
    made = small_scene(2)
    read = open_cloud(write_generated(tmp_path / "a.ply", small_scene, seed=2))
    np.testing.assert_array_equal(read.xyz, made.xyz)
    for name in ("intensity", "rgb", "label", "num_returns", "return_number"):
        np.testing.assert_array_equal(read.field(name), made.field(name))
    with pytest.raises(InputError, match=r"\.ply"):
        write_generated(tmp_path / "a.las", small_scene)
    with pytest.raises(InputError, match="`seed`"):
        write_generated(tmp_path / "a.ply", small_scene, seed=-1)
    with pytest.raises(SourceError):
        write_generated(tmp_path / "none" / "a.ply", small_scene)
