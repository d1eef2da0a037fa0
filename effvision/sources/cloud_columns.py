"""From the columns of a file or an array to a `Cloud`: which are coordinates, what the others are called, and checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effvision.clouds import Cloud, as_local
from effvision.errors import DTypeError, InputError, RangeError, ShapeError

__all__ = ["MOST_COLUMNS", "SKIP", "Columns", "Table", "assemble", "check_columns", "named", "refuse_columns", "whole"]

Table = dict[str, NDArray[Any]]
"""Columns by the names their source gives them: (P,) or (P, C), all of one length."""

Columns = int | Sequence[str] | None
"""What a caller says of unnamed columns: how many numbers make a row, or their names in order; `SKIP` leaves one out."""

SKIP = "_"
MOST_COLUMNS = 64
"""More unnamed columns than this are no cloud but a picture or a matrix."""

_TRIPLES: dict[str, tuple[tuple[str, ...], ...]] = {
    "xyz": (("x", "y", "z"), ("//x", "y", "z")),
    "rgb": (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")),
    "normal": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")),
}
_ALIASES: dict[str, str] = {
    "colors": "rgb",
    "color": "rgb",
    "normals": "normal",
    "labels": "label",
    "class": "label",
    "classification": "label",
    "scalar_label": "label",
    "scalar_classification": "label",
    "scalar_intensity": "intensity",
    "number_of_returns": "num_returns",
    "scalar_remission": "remission",
}
_UNIT = 0.02  # how far from 1 the length of a normal may be


def assemble(
    table: Table, *, name: str, drop_nonfinite: bool = False, origin: ArrayLike | None = None, at_least: int = 2
) -> Cloud:
    """Make a cloud of named columns: coordinates joined, fields brought to their canonical names and types.

    Args:
        table: The columns; x, y, z or `xyz` among them.
        name: What to call the cloud, and to begin errors with.
        drop_nonfinite: Leave out points whose coordinates are NaN or infinite, instead of refusing them.
        origin: (3,) metres the coordinates are relative to.
        at_least: Fewest points that make a cloud.

    Raises:
        InputError: there are no coordinates, too few points, or values that are none (ShapeError, DTypeError, RangeError).
    """
    try:
        fields = _join(table)
        xyz = fields.pop("xyz")
        _check_coordinates(xyz)
        points = len(xyz)
        rows = _finite_rows(xyz, drop=drop_nonfinite)
        if rows is not None:
            xyz = xyz[rows]
        _check_enough(len(xyz), at_least, dropped=rows is not None)
        local, base = as_local(xyz, origin)
        for key, values in fields.items():
            if values.ndim not in (1, 2) or len(values) != points:
                raise ShapeError(f"field `{key:.60}` must have one row for each of {points} points; got {values.shape}")
        kept = {key: _canonical(key, values if rows is None else values[rows]) for key, values in fields.items()}
        return Cloud(local, kept, base, name, rows)
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error


def check_columns(columns: object) -> None:
    """Refuse a `columns` that is neither a number of columns nor a list of names with x, y and z among them."""
    if columns is None:
        return
    if isinstance(columns, (int, np.integer)) and not isinstance(columns, bool):
        if not 3 <= columns <= MOST_COLUMNS:
            raise InputError(f"`columns` must be 3 to {MOST_COLUMNS}, or names; got {columns}")
        return
    if isinstance(columns, (str, bytes)) or not isinstance(columns, Sequence):
        raise InputError(
            f"`columns` must be a number or a list of names; got {columns!r:.80}\n"
            "hint: `columns=4`, or `columns=('x', 'y', 'z', 'intensity')`"
        )
    names = list(columns)
    if not all(isinstance(item, str) and item for item in names):
        raise InputError(f"`columns` must hold names as text; got {names!r:.80}")
    given = [item.lower() for item in names if item != SKIP]
    if len(set(given)) != len(given) or not {"x", "y", "z"} <= set(given):
        raise InputError(
            f"`columns` must name each column once, x, y and z among them; got {', '.join(names):.120}\n"
            f"hint: {SKIP!r} stands for a column to leave out"
        )


def refuse_columns(columns: Columns, what: object) -> None:
    """Names for columns that have names already are a misunderstanding."""
    if columns is not None:
        raise InputError(f"`columns` is for columns without names; {what} names its own\nhint: leave `columns` out")


def named_of(path: Path, rows: NDArray[Any], columns: Columns) -> Table:
    """Do what `named` does for a file, whose name its errors then begin with."""
    try:
        return named(rows, columns)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def named(rows: NDArray[Any], columns: Columns) -> Table:
    """Give names to the columns of `rows` (P, C): those of `columns`, or by their number.

    3: x y z. 4: remission follows, as in a KITTI scan. 5: intensity and ring, as in nuScenes. 6: `normal` where all rows have
    length 1, `rgb` where all values lie within 0..255. 7: the same and a label of whole numbers. More need names.

    Raises:
        ShapeError: fewer than three columns, or as many as have no rule.
        InputError: names that are not as many as the columns, or columns that no rule fits.
    """
    width = rows.shape[1]
    if isinstance(columns, (int, np.integer)):
        if columns != width:
            raise ShapeError(f"rows of {columns} numbers were announced (`columns={columns}`); there are {width}")
    elif columns is not None:
        if len(columns) != width:
            raise ShapeError(f"`columns` names {len(columns)} columns; there are {width}")
        return {key: rows[:, index] for index, key in enumerate(columns) if key != SKIP}
    _check_width(rows.shape)
    table: Table = {"xyz": rows[:, :3]}
    if width == 4:
        table["remission"] = rows[:, 3]
    elif width == 5:
        table["intensity"], table["ring"] = rows[:, 3], rows[:, 4]
    elif width >= 6:
        table[_kind_of(rows[:, 3:6])] = rows[:, 3:6]
        if width == 7:
            if not whole(rows[:, 6]):
                raise InputError(_no_rule(width, "the seventh is no label, because it is not of whole numbers"))
            table["label"] = rows[:, 6]
    return table


def whole(values: NDArray[Any]) -> bool:
    """Whether all are whole numbers that fit into 32 bits."""
    if values.dtype.kind in "iub":
        return True
    with np.errstate(invalid="ignore"):
        return bool((np.abs(values) < 2**31).all() and (values == np.rint(values)).all())


def _join(table: Table) -> Table:
    """Bring columns that belong together into one array, and names to the canonical ones where these are free."""
    lower: dict[str, str] = {}
    for key in table:
        lower.setdefault(key.lower(), key)
    fields: Table = {}
    used: set[str] = set()
    for target, choices in _TRIPLES.items():
        if target in table:
            continue
        for choice in choices:
            if all(part in lower for part in choice):
                parts = [lower[part] for part in choice]
                fields[target] = _stack([table[part] for part in parts])
                used.update(parts)
                break
    for key, values in table.items():
        if key not in used:
            alias = _ALIASES.get(
                key.lower(), key.lower() if key.lower() in ("intensity", "label", "rgb", "xyz") else key
            )
            free = alias not in fields and (alias == key or alias not in table) and _suits(alias, key, values)
            fields[alias if free else key] = values
    if "xyz" not in fields:
        there = ", ".join(list(table)[:12]) or "none"
        raise InputError(
            f"there are no coordinates: neither `xyz` nor `x`, `y` and `z`; what is there: {there:.300}\n"
            "hint: rename them, or make an array (N, 3) of them"
        )
    return fields


def _suits(alias: str, key: str, values: NDArray[Any]) -> bool:
    """Whether a column called `key` can be the field `alias`; it always can where it has that very name."""
    if alias == key or values.dtype.kind not in "fiub":
        return True
    if alias in ("rgb", "normal", "xyz"):
        return values.ndim == 2 and values.shape[1] == 3
    return values.ndim == 1 and (alias != "label" or whole(values))


def _stack(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Join columns (P,) to (P, C) of a type that loses nothing of any."""
    for part in parts:
        if part.ndim != 1:
            raise ShapeError(f"x, y, z, colours and normals must be single columns; got {part.shape}")
        if len(part) != len(parts[0]):
            raise ShapeError(f"columns must have one length; got {', '.join(str(len(item)) for item in parts)}")
    out = np.empty((len(parts[0]), len(parts)), np.result_type(*parts))
    for index, part in enumerate(parts):
        out[:, index] = part
    return out


def _check_coordinates(xyz: NDArray[Any]) -> None:
    if xyz.dtype.kind not in "fiu":
        raise DTypeError(f"coordinates must be numbers; got {xyz.dtype}")
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        hint = "\nhint: `points.T` has one point a row" if xyz.ndim == 2 and xyz.shape[0] == 3 else ""
        raise ShapeError(f"coordinates must be (P, 3); got {xyz.shape}{hint}")


def _check_width(shape: tuple[int, ...]) -> None:
    points, width = shape
    if width < 3:
        labels = "labels, not a cloud? " if width == 1 else ""
        raise ShapeError(
            f"{width} columns ({labels}a point needs x, y, z); got {shape}\nhint: give an array (N, 3) or wider"
        )
    if width > 7:
        hint = "`points.T` has one point a row" if points in (3, 4, 6) else "say `columns=('x', 'y', 'z', ...)`"
        raise ShapeError(f"{width} columns without names, and no rule for so many; got {shape}\nhint: {hint}")


def _kind_of(three: NDArray[Any]) -> str:
    """Whether three columns behind x, y, z are a normal or a colour."""
    if three.dtype.kind == "f":
        with np.errstate(all="ignore"):
            length = np.sqrt(sum(np.square(three[:, axis], dtype=np.float64) for axis in range(3)))
        if (np.abs(length - 1) < _UNIT).all():
            return "normal"
    if len(three) == 0 or (three.min() >= 0 and three.max() <= 255):
        return "rgb"
    raise InputError(_no_rule(6, "columns 4 to 6 are neither normals of length 1 nor colours within 0..255"))


def _no_rule(width: int, why: str) -> str:
    return (
        f"{width} columns without names: {why}\n"
        "hint: name them, such as `columns=('x', 'y', 'z', 'intensity', 'return_number', 'num_returns')`"
    )


def _finite_rows(xyz: NDArray[Any], *, drop: bool) -> NDArray[np.int64] | None:
    """Return the rows whose coordinates are finite, None when all are; refuse where `drop` does not allow to leave some out."""
    if xyz.dtype.kind != "f" or np.isfinite(xyz).all():
        return None
    good = np.isfinite(xyz).all(axis=1)
    bad = len(xyz) - int(np.count_nonzero(good))
    if not drop:
        raise RangeError(
            f"{bad} of {len(xyz)} points hold NaN or infinity\n"
            "hint: `open_cloud(..., drop_nonfinite=True)`, or `effvision run --drop-nonfinite`, leaves them out"
        )
    return np.flatnonzero(good).astype(np.int64)


def _check_enough(points: int, at_least: int, *, dropped: bool) -> None:
    if points >= at_least:
        return
    given = {0: "no point", 1: "only one point"}.get(points, f"only {points} points")
    after = " that is finite" if dropped else ""
    raise ShapeError(f"a cloud needs at least {at_least} points; there is {given}{after}")


def _canonical(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Bring a field to native byte order, and those of `CANONICAL` to their types."""
    if values.dtype.kind not in "fiub":
        raise DTypeError(f"field `{name:.60}` must be numbers; got {values.dtype}")
    if values.ndim == 2 and values.shape[1] == 1:  # tensors of Open3D
        values = values[:, 0]
    if name == "rgb":
        return _as_rgb(values)
    if name == "label" and values.dtype.kind not in "iu":
        if not whole(values):
            raise RangeError("field `label` must be whole numbers\nhint: call the field otherwise if it is no class")
        return values.astype(np.int32)
    if name in ("normal", "remission"):
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, np.float32)
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


def _as_rgb(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Colours as uint8: floats all within 0..1 are shares of 255, other numbers 0..255, 16-bit ones 0..65535."""
    if values.dtype == np.uint8 or not values.size:
        return np.ascontiguousarray(values, np.uint8)
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.asarray(np.rint(values * 255), np.uint8)
    if low >= 0 and high <= 255 and values.dtype.kind != "b":
        return np.asarray(np.rint(values), np.uint8)
    if values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise RangeError(
        f"colours must be 0..255, 0..1 or, as 16-bit numbers, 0..65535; got {low:g}..{high:g} ({values.dtype})"
    )
