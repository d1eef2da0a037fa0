"""Clouds that are already in memory: arrays, tensors, dicts, structured arrays, Open3D clouds.

Neither torch nor Open3D is imported: both are recognised by what they offer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, ShapeError
from effvision.sources.cloud_columns import Columns, Table, named, refuse_columns
from effvision.sources.cloud_numpy import structured

__all__ = ["from_memory"]

_OPEN3D = {"positions": "xyz", "colors": "rgb", "normals": "normal", "points": "xyz"}


def from_memory(x: Any, columns: Columns = None) -> tuple[Table, Any, str]:
    """Return the columns of a cloud in memory, the origin it brings (or None), and what to call it.

    Raises:
        DTypeError: nothing that holds points.
        ShapeError, InputError: an array that is no cloud, or a dict without `xyz`.
    """
    if isinstance(x, Mapping):
        refuse_columns(columns, "a dict")
        return *_from_dict(x), "dict"
    if _is_open3d(x):
        refuse_columns(columns, "an Open3D cloud")
        return _from_open3d(x), None, "Open3D cloud"
    if isinstance(x, np.ndarray) or _offers(x, "detach", "cpu", "numpy") or _offers(x, "__array__"):
        if np.ma.is_masked(x):
            raise InputError(
                "a masked array holds points that are none\nhint: `x[~x.mask.any(axis=1)].data` is the others"
            )
        array = _to_numpy(x, "the cloud")
        if array.dtype.names:
            refuse_columns(columns, "a structured array")
            return structured(array), None, "array"
        if array.dtype.kind not in "fiu":
            raise DTypeError(f"a cloud must be an array of numbers; got {array.dtype}")
        if array.ndim != 2:
            hint = "`points[0]` is one cloud of a batch" if array.ndim == 3 else "one point a row: x, y, z, ..."
            raise ShapeError(f"a cloud must be (N, 3) or wider; got {array.shape}\nhint: {hint}")
        return named(array, columns), None, "array"
    raise DTypeError(
        f"a cloud cannot be read from {type(x).__name__}\n"
        "hint: give a path, an array (N, 3) or wider, a dict with `xyz`, a tensor or an Open3D cloud"
    )


def _from_dict(x: Mapping[Any, Any]) -> tuple[Table, Any]:
    if not all(isinstance(key, str) for key in x):
        raise InputError(f"a dict of a cloud has names as keys; got {list(x)[:5]!r:.120}")
    table = {key: _to_numpy(value, f"`{key:.60}`") for key, value in x.items() if key != "origin" and value is not None}
    origin = None if x.get("origin") is None else _to_numpy(x["origin"], "`origin`")
    if origin is not None and (origin.shape != (3,) or origin.dtype.kind not in "fiu" or not np.isfinite(origin).all()):
        raise InputError(f"`origin` must be three finite numbers, metres; got shape {origin.shape}, {origin.dtype}")
    return table, origin


def _is_open3d(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "open3d" or _offers(x, "points", "has_colors", "has_normals")


def _from_open3d(x: Any) -> Table:
    """Legacy clouds have arrays as attributes; those of `open3d.t` have a map of tensors, which may lie on a GPU."""
    if _offers(x, "triangles"):
        raise DTypeError(
            "this is an Open3D mesh, not a cloud\nhint: `mesh.sample_points_uniformly(100_000)` makes a cloud of it"
        )
    if _offers(x, "point"):
        return {_OPEN3D.get(key, key): _to_numpy(value, f"`{key}`") for key, value in x.point.items()}
    if not _offers(x, "points", "has_colors", "has_normals"):
        raise DTypeError(f"a cloud cannot be read from Open3D's {type(x).__name__}\nhint: give a PointCloud")
    table: Table = {"xyz": np.asarray(x.points)}
    if x.has_colors():
        table["rgb"] = np.asarray(x.colors)
    if x.has_normals():
        table["normal"] = np.asarray(x.normals)
    return table


def _offers(x: object, *names: str) -> bool:
    """Whether the type of `x` has all `names`; asks the type, because an instance may invent attributes."""
    return all(hasattr(type(x), name) for name in names)


def _to_numpy(x: Any, what: str) -> NDArray[Any]:
    if isinstance(x, np.ndarray):
        return np.asarray(x)
    try:
        if _offers(x, "detach", "cpu", "numpy"):
            x = x.detach().cpu()
            return np.asarray(x.float().numpy() if str(x.dtype).endswith("bfloat16") else x.numpy())
        if _offers(x, "cpu", "numpy"):
            return np.asarray(x.cpu().numpy())
        if _offers(x, "__array__") or isinstance(x, (list, tuple)):
            return np.asarray(x)
    except Exception as error:  # foreign code, or lists of unequal lengths
        raise DTypeError(f"{what} could not be turned into an array: {error}") from error
    raise DTypeError(f"{what} must be an array of numbers; got {type(x).__name__}")
