"""np.einsum: products of blocks, where each axis of an array has a letter of its own."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from dask.array.einsumfuncs import parse_einsum_input

from pylops_dispatch.array import DispatchArray, as_box
from pylops_dispatch.functions.outputs import written
from pylops_dispatch.functions.registry import implements
from pylops_dispatch.policy import not_dispatched


@implements(np.einsum)
def _einsum(
    *operands: Any, out: Any = None, dtype: Any = None, order: str = "K",
    casting: str = "safe", optimize: Any = False,
) -> Any:  # fmt: skip
    given = [as_box(x).dask() if _is_array(x) else x for x in operands]
    inputs, output, arrays = parse_einsum_input(given)
    letters = inputs.split(",")
    if any(len(set(names)) < len(names) for names in letters):
        raise not_dispatched(
            "np.einsum with a letter twice for one array",
            "Blocks do not lie on its diagonal: take np.diagonal first.",
        )
    _check_lengths(letters, arrays)
    if len(letters) == 1 and set(inputs) == set(output):
        dtype = None  # nothing is added: NumPy gives a view of the array
    wanted = np.result_type(*arrays) if dtype is None else np.dtype(dtype)
    for array in arrays:
        if not np.can_cast(array.dtype, wanted, casting):  # type: ignore[arg-type]
            raise TypeError(
                f"Cannot cast array data from {array.dtype!r} to {wanted!r} "
                f"according to the rule '{casting}'"
            )
    result = da.einsum(*given, dtype=dtype, casting=casting, optimize=optimize)
    # dask adds what the blocks give as np.sum does, in a larger dtype
    return written(out, DispatchArray(result.astype(wanted)), "np.einsum", "same_kind")


def _is_array(x: Any) -> bool:
    return isinstance(x, DispatchArray) or (hasattr(x, "dtype") and hasattr(x, "shape"))


def _check_lengths(letters: list[str], arrays: Any) -> None:
    """Refuse what dask would take for blocks of other arrays: axes of length one are repeated."""
    lengths: dict[str, int] = {}
    for names, array in zip(letters, arrays, strict=True):
        if len(names) != array.ndim:
            raise ValueError(f"einsum: '{names}' is not for an array of {array.ndim} axes")
        for name, n in zip(names, array.shape, strict=True):
            if lengths.setdefault(name, n) != n:
                if 1 not in (lengths[name], n):
                    raise ValueError(f"einsum: axis {name} is {lengths[name]} and {n} long")
                raise not_dispatched(
                    f"np.einsum where {name} is {lengths[name]} and {n}", "Repeat."
                )
