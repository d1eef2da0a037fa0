"""Kernel maps as tables: they sum what they should, tell the pairs they were made of, and give the network's own answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effvision.errors import ShapeError
from effvision.host.sparse import coarser, neighbours, pack
from effvision.host.sparse_graph import WIDTHS, graph_arrays, owners_of, pairs_of, sum_tables, table_axes
from effvision.models.minkunet.graphs import PairGraph, TableGraph
from effvision.models.minkunet.labelling import fed
from effvision.models.minkunet.network import SPVCNN, MinkUNet, SparseUNet
from effvision.ops.folding import fuse
from effvision.ops.sparse_tables import picked_products, row_sums, summed_products

CHANNELS = (4, 4, 5, 6, 7, 6, 5, 4, 4)


def cloud(kind: str, seed: int = 0) -> np.ndarray:
    """Sorted coordinates (R, 4) of one batch, or of two."""
    rng = np.random.default_rng(seed)
    made = {
        "one": np.zeros((1, 3), np.int64),
        "two far apart": np.array([[0, 0, 0], [900, 0, 40]]),
        "solid": np.argwhere(np.ones((6, 5, 7))),
        "sparse": rng.integers(-40, 40, (300, 3)),
        "dense": rng.integers(0, 12, (900, 3)),
    }[kind]
    coords = np.unique(np.column_stack([made, rng.integers(0, 2, len(made))]), axis=0)
    return coords[np.argsort(pack(coords))]


CLOUDS = ("one", "two far apart", "solid", "sparse", "dense")


def network(points: bool, point_size_m: float | None = None) -> SparseUNet:
    torch.manual_seed(1)
    made: SparseUNet = (
        SPVCNN(3, 4, channels=CHANNELS, voxel_size_m=0.5, point_size_m=point_size_m)
        if points
        else MinkUNet(3, 4, channels=CHANNELS)
    )
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return made.eval()


# -- sums ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=60), st.integers(0, 90), st.integers(0, 2**32 - 1))
def test_tables_sum_what_a_loop_sums_also_crowds(owners: list[int], crowd: int, seed: int) -> None:
    owner = np.array(owners + [2] * crowd)
    np.random.default_rng(seed).shuffle(owner)
    tables = sum_tables("a", owner, 6, (1, 3, 4), zero=len(owner), crowds=True)
    values = np.random.default_rng(seed).integers(-9, 9, (len(owner) + 1, 2))
    values[-1] = 0
    stack = [np.zeros((1, 2)), *(values[tables[f"a_sum{width}"]].sum(axis=1) for width in (1, 3, 4))]
    joined = np.concatenate(stack)
    joined = np.concatenate([joined, joined[tables["a_crowd"]].sum(axis=1)])
    wanted = np.zeros((6, 2))
    for row, value in zip(owner.tolist(), values[:-1], strict=True):
        if row >= 0:
            wanted[row] += value
    np.testing.assert_array_equal(joined[tables["a_rows"]], wanted)
    np.testing.assert_array_equal(owners_of(tables, "a", len(owner), 6), owner)
    summed = row_sums(
        torch.from_numpy(values[:-1]).float(),
        [torch.from_numpy(tables[f"a_sum{width}"]) for width in (1, 3, 4)],
        *(torch.from_numpy(tables[f"a_{name}"]) for name in ("crowd", "rows")),
    )
    np.testing.assert_array_equal(summed.numpy(), wanted)


def test_more_than_fits_is_refused_where_nothing_is_crowded() -> None:
    with pytest.raises(ShapeError, match="a row of `a` sums 3 others, more than 2"):
        sum_tables("a", np.array([0, 0, 0]), 1, (1, 2))


def test_a_narrow_table_holds_what_fits_and_little_is_gathered_in_vain() -> None:
    coords = cloud("dense")
    pairs = neighbours(pack(coords))
    arrays = graph_arrays(pack(coords))
    degrees = np.bincount(pairs.target, minlength=len(coords))
    least = 0
    for width in WIDTHS:
        assert len(arrays[f"near0_sum{width}"]) == int(((degrees > least) & (degrees <= width)).sum())
        least = width


# -- maps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLOUDS)
def test_tables_tell_the_pairs_they_were_made_of(kind: str) -> None:
    keys = pack(cloud(kind))
    arrays = graph_arrays(keys)
    assert list(arrays) == list(table_axes(points=False))
    for level in range(5):
        pairs = neighbours(keys)
        for got, wanted in zip(
            pairs_of(arrays, f"near{level}", 27, len(keys)), (pairs.source, pairs.target, pairs.bounds), strict=True
        ):
            np.testing.assert_array_equal(got, wanted)
        if level == 4:
            break
        above, pairs = coarser(keys)
        for got, wanted in zip(
            pairs_of(arrays, f"down{level}", 8, len(above)), (pairs.source, pairs.target, pairs.bounds), strict=True
        ):
            np.testing.assert_array_equal(got, wanted)
        keys = above


def test_every_table_has_the_axes_and_the_type_that_are_said() -> None:
    coords = cloud("sparse")
    places = coords[:, :] + np.array([0.25, 0.5, 0, 0])
    arrays = graph_arrays(pack(coords), places)
    axes = table_axes(points=True)
    assert list(arrays) == list(axes)
    for name, array in arrays.items():
        assert array.ndim == len(axes[name])
        assert all(size in (None, given) for size, given in zip(axes[name], array.shape, strict=True)), name
        assert array.dtype == (np.float32 if name.endswith(("shares", "weights")) else np.int64)


def test_the_operators_convolve_as_a_loop_does() -> None:
    keys = pack(cloud("dense", 3))
    arrays = {name: torch.from_numpy(array) for name, array in graph_arrays(keys).items()}
    rng = np.random.default_rng(0)
    above, pairs = coarser(keys)
    x, coarse = rng.normal(size=(len(keys), 3)), rng.normal(size=(len(above), 3))
    weight = rng.normal(size=(8, 3, 2))
    down, up = np.zeros((len(above), 2)), np.zeros((len(keys), 2))
    for k in range(8):
        for at in range(pairs.bounds[k], pairs.bounds[k + 1]):
            down[pairs.target[at]] += x[pairs.source[at]] @ weight[k]
            up[pairs.source[at]] += coarse[pairs.target[at]] @ weight[k]
    tables = [array for name, array in arrays.items() if name.startswith("down0_sum")]
    chunks, taps = (arrays["down0_source"], arrays["down0_offset"]), torch.from_numpy(weight)
    got = summed_products(torch.from_numpy(x), taps, None, *chunks, tables, arrays["down0_rows"], -1)
    np.testing.assert_allclose(got.numpy(), down, atol=1e-12)
    got = picked_products(torch.from_numpy(coarse), taps, arrays["up0_source"], chunks[1], arrays["up0_rows"])
    np.testing.assert_allclose(got.numpy(), up, atol=1e-12)


# -- networks ------------------------------------------------------------------------------------------------------------


def options(made: SparseUNet) -> dict[str, Any]:
    points = made.has_points
    return {
        "network": "spvcnn" if points else "minkunet",
        "voxel_m": made.voxel_size_m,
        "point_m": made.point_size_m if isinstance(made, SPVCNN) else None,
    }


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize(
    "made", [network(False), network(True), network(True, 0.125)], ids=["voxels", "points", "fine"]
)
def test_both_graphs_answer_what_the_network_answers(made: SparseUNet, kind: str) -> None:
    coords = cloud(kind, 5)
    feats = np.random.default_rng(0).normal(size=(len(coords), 3)).astype(np.float32)
    arrays = fed(coords, feats, options(made))
    tensors = [torch.from_numpy(array) for array in arrays.values()]
    with torch.inference_mode():
        wanted = made(torch.from_numpy(coords.astype(np.int32)), torch.from_numpy(feats)).numpy()
        for graph in (PairGraph(fuse(made)), TableGraph(fuse(made))):
            assert list(arrays) == ["feats", *graph.names]
            got = graph(*tensors).numpy()
            assert np.abs(got - wanted).max() <= 1e-5 * max(1.0, float(np.abs(wanted).max()))


def test_points_that_stand_twice_are_averaged_in_both_graphs() -> None:
    made = network(True, 0.125)
    coords = np.repeat(cloud("sparse"), 40, axis=0)
    feats = np.random.default_rng(0).normal(size=(len(coords), 3)).astype(np.float32)
    tensors = [torch.from_numpy(array) for array in fed(coords, feats, options(made)).values()]
    with torch.inference_mode():
        wanted = made(torch.from_numpy(coords.astype(np.int32)), torch.from_numpy(feats)).numpy()
        for graph in (PairGraph(fuse(made)), TableGraph(fuse(made))):
            np.testing.assert_allclose(graph(*tensors).numpy(), wanted, atol=1e-5)
