"""What follows from a NumPy array of an operator, made once and not in every application."""

from __future__ import annotations

import functools
import hashlib
import math
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from pylops_dispatch.pieces import contents

Result = TypeVar("Result")

_SUMMED = 1 << 12  # bytes: what is smaller is hashed as fast as it is added up
_KEPT = 8  # results for one array, of which those not asked for the longest go

# for the array that has the memory of others: itself, and what was made of it, by what that is
_known: dict[int, tuple[weakref.ref[Any], dict[Any, Any]]] = {}
_lock = threading.RLock()


def remembered(
    array: np.ndarray[Any, Any], what: Any, values: Any, make: Callable[[], Result]
) -> Result:
    """Return what `make` gives, the same object again as long as the array is there.

    Parameters
    ----------
    array : numpy.ndarray
        What it is made of. A view is known by the array that it is a view of, and where it lies.
    what : hashable
        Which of all that is made of this array it is.
    values : hashable
        What tells whether the array was changed in place: see :func:`checksum`.
    make : callable
        Makes it. The result must not refer to `array`, which would then never go.

    Returns
    -------
    object
        Not to be changed.
    """
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    place = array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str
    key = (what, place, values)
    with _lock:
        results = _results(owner)
        if key in results:
            results[key] = results.pop(key)
            return results[key]
    result = make()
    with _lock:
        results[key] = result
        while len(results) > _KEPT:
            del results[next(iter(results))]
    return result


def _results(owner: np.ndarray[Any, Any]) -> dict[Any, Any]:
    number = id(owner)
    known = _known.get(number)
    if known is not None and known[0]() is owner:
        return known[1]
    results: dict[Any, Any] = {}
    # bound to what it needs: when Python ends, names of modules go first
    forget = functools.partial(_forget, _known, number)
    _known[number] = weakref.ref(owner, forget), results
    return results


def _forget(known: dict[int, Any], number: int, gone: Any) -> None:
    # another array may have the place in memory by now
    if number in known and known[number][0] is gone:
        del known[number]


def checksum(array: np.ndarray[Any, Any]) -> Any:
    """Return what changes with the elements of an array, in a fraction of the time of a hash.

    An element that is changed changes the sum of its row and that of its column, in a square that
    the elements are laid out in; weights tell where in a row or a column it is.
    """
    if type(array) is not np.ndarray or array.nbytes <= _SUMMED or not array.flags.c_contiguous:
        return contents(array)
    flat = array.reshape(-1).view(np.uint8)
    whole = flat.size // 8 * 8
    words = flat[:whole].view(np.uint64)
    # each bit makes a difference to lower ones: two signs that change add up to nothing otherwise
    words = words ^ (words >> np.uint64(32))
    width = math.isqrt(words.size)
    square = words[: width * width].reshape(width, width)
    digest = hashlib.blake2b(flat[8 * width * width :].tobytes(), digest_size=16)
    weights = _weights(width)
    for products in ("i,ij->j", weights, square), ("ij,j->i", square, weights):
        digest.update(np.einsum(*products).tobytes())
    return digest.hexdigest()


@functools.lru_cache(maxsize=32)
def _weights(length: int) -> np.ndarray[Any, Any]:
    """Return odd integers without a pattern: products with them lose nothing when they overflow."""
    numbers = np.random.default_rng(length).integers(1, 1 << 62, length, dtype=np.uint64)
    return numbers | np.uint64(1)
