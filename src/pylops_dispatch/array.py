"""DispatchArray: one NumPy face over N-D dask pieces."""

from __future__ import annotations

import contextvars
import copy
import math
import operator
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import Array as DaskArray
from dask.base import normalize_token

from pylops_dispatch import memory_layout as layout
from pylops_dispatch import pieces as pc
from pylops_dispatch.layers import array_in_full
from pylops_dispatch.pieces import Piece, Shape, Zeros
from pylops_dispatch.policy import count_read, not_dispatched, report_implicit_compute

Names = tuple[Any, ...]

_NO_SESSION: weakref.ref[Any] = weakref.ref(set())  # to nothing


class _Current:
    """A context variable for the session of a solve, which does not keep it.

    asyncio copies the context that a socket was registered in, and keeps it as long as that; with
    it, the vectors of a solve would stay on the workers of a cluster when the solve is over.
    """

    def __init__(self) -> None:
        self._variable: contextvars.ContextVar[weakref.ref[Any]]
        self._variable = contextvars.ContextVar("session", default=_NO_SESSION)

    def get(self) -> Any:
        """Return the session, None outside of solvers."""
        return self._variable.get()()

    def set(self, value: Any) -> contextvars.Token[weakref.ref[Any]]:
        """Set the session, or None."""
        return self._variable.set(_NO_SESSION if value is None else weakref.ref(value))

    def reset(self, token: contextvars.Token[weakref.ref[Any]]) -> None:
        """Set what was there before."""
        self._variable.reset(token)


# what Python counts for an attribute that nothing else refers to
_lonely = SimpleNamespace(root=object())
_ONE_REFERENCE = sys.getrefcount(_lonely.root)

# the session that reads scalars, set by solvers.py, which keeps it
session = _Current()

# what makes a dask array of a NumPy array, and chunks: on a cluster, of an operator that is
# applied, it is placing.py
wrapping: contextvars.ContextVar[Callable[[np.ndarray[Any, Any], Any], DaskArray]] = (
    contextvars.ContextVar("wrapping", default=pc.wrap_numpy)
)


class DispatchArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A mutable box over immutable dask arrays, as PyLops's own code expects of NumPy.

    A 1-D box is the flattening of its pieces, so that ``ravel`` and ``reshape`` move nothing;
    a box of any other number of dimensions has one piece. Writing (``y[...] = v``, ``y += v``,
    ``out=y``) rebinds the pieces. Users never see one.

    Parameters
    ----------
    pieces : dask.array.Array, Zeros, or list of them
        What the box holds.
    shape : tuple of int, optional
        Shape of the box; that of its only piece by default.
    dtype : dtype, optional
        That of the pieces by default.
    """

    __slots__ = (
        "__weakref__",
        "_conjugated",
        "_dtype",
        "_held",
        "_in_parts",
        "_recall",
        "_shape",
        "_strides",
        "_value",
        "_version",
        "_view",
        "chosen",
    )
    __array_priority__ = 1e6

    def __init__(
        self, pieces: Any, shape: Shape | None = None, dtype: np.dtype[Any] | None = None
    ) -> None:
        if not isinstance(pieces, list):
            pieces = [pieces]
        self._held: list[Piece] = pieces
        self._shape: Shape = pieces[0].shape if shape is None else shape
        self._dtype: np.dtype[Any] = pieces[0].dtype if dtype is None else dtype
        self._strides: layout.Strides | None = None  # in C order without gaps
        self._value: Any = None
        self._version = 0
        self._view: _View | None = None
        self._recall: Callable[[], list[Piece]] | None = None
        self._in_parts = False  # whether that puts parts together
        self._conjugated: Names | None = None
        # of a mask that was narrowed through itself: which elements of which mask it holds
        self.chosen: Any = None
        current = session.get()
        if current is not None:
            current.register(self)

    # ---- views: as in NumPy, a write through one reaches the array that it was taken of ---

    @property
    def _pieces(self) -> list[Piece]:
        if self._recall is not None:
            recall, self._recall, self._in_parts = self._recall, None, False
            self._held = recall()
        view = self._view
        if view is not None and view.root._version != view.version:
            self._held, view.version = view.read(view.root)._pieces, view.root._version
        return self._held

    def viewing(
        self, of: DispatchArray, read: _Read, write: _Write, strides: layout.Strides | None
    ) -> DispatchArray:
        """Make this box a view: `read` takes it of its owner, `write` puts it back.

        The owner stays, as in NumPy: other views may be written to.
        """
        self._strides = strides
        outer = of._view
        if outer is None:
            self._view = _View(of, read, write, of._version)
            return self
        # of the outer view nothing is kept but how it is taken: see `leave_owner`
        root, outer_read, outer_write = outer.root, outer.read, outer.write

        def read_through(box: DispatchArray) -> DispatchArray:
            return read(outer_read(box))

        def write_through(box: DispatchArray, value: DispatchArray) -> None:
            inner = outer_read(box)
            write(inner, value)
            outer_write(box, inner)

        self._view = _View(root, read_through, write_through, root._version)
        return self

    def reading(self, of: DispatchArray, read: _Read) -> DispatchArray:
        """Make this box a view that may not be written to, such as ``np.broadcast_to`` gives."""

        def refuse(box: DispatchArray, value: DispatchArray) -> None:
            raise ValueError("assignment destination is read-only")

        return self.viewing(of, read, refuse, None)

    @property
    def is_its_own(self) -> bool:
        """Whether it is no view, once it has left an owner that nothing else refers to."""
        self.leave_owner()
        return self._view is None

    @property
    def parts(self) -> Any:
        """What was written into it in parts that are not put together yet, None if nothing was."""
        return self._recall if self._in_parts else None

    def hold_parts(self, parts: Callable[[], list[Piece]]) -> None:
        """Hold what was written in parts, which a call puts together."""
        self._written([])
        self._recall, self._in_parts = parts, True

    def _written(self, pieces: list[Piece], value: Any = None) -> None:
        self._held, self._value, self._conjugated, self.chosen = pieces, value, None, None
        self._recall, self._in_parts = None, False
        self._version += 1
        view = self._view
        if view is not None:
            view.version = view.root._version  # or what was just written would be read anew
            view.write(view.root, self)
            view.version = view.root._version

    # ---- what the box is -------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        """Shape, as NumPy would have it."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the elements."""
        return self._dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self._shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize

    @property
    def strides(self) -> layout.Strides:
        """Bytes from one element to the next along each axis, as NumPy would have them.

        No memory is laid out so; they tell which reshapes are views, and which are copies.
        """
        return self._strides or layout.in_c_order(self._shape, self.itemsize)

    def memory(self) -> np.ndarray[Any, Any]:
        """Return an array of this shape, dtype and strides that holds nothing."""
        return layout.stand_in(self._shape, self._dtype, self.strides)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The N-D arrays that a 1-D box is the flattening of; else the array itself."""
        return tuple(self._pieces)

    @property
    def names(self) -> Names:
        """What tells the contents of the box from others, without looking at them."""
        return tuple(p if isinstance(p, Zeros) else (p.name, p.shape) for p in self._pieces)

    @property
    def conjugated(self) -> Names:
        """The names of the vector that this one is the complex conjugate of."""
        if self._dtype.kind != "c":
            return self.names
        return self._conjugated or ()

    @property
    def is_plain_vector(self) -> bool:
        """Whether it is a vector of which there is nothing to know but its pieces."""
        self.leave_owner()
        known = (
            self._value,
            self._strides,
            self._conjugated,
            self.chosen,
            self._recall,
            self._view,
        )
        return self.ndim == 1 and all(each is None for each in known)

    def leave_owner(self) -> None:
        """Be no view any more, if nothing else refers to what this box is a view of."""
        view = self._view
        if view is not None and sys.getrefcount(view.root) <= _ONE_REFERENCE:
            self._held = self._pieces
            self._view = None

    @property
    def value(self) -> Any:
        """The NumPy scalar of a 0-d box that has been read, else None."""
        return self._value

    def dask(self) -> DaskArray:
        """Return one dask array of the box's shape."""
        if self.ndim != 1 or len(self._pieces) == 1:
            piece = self._pieces[0]
            return pc.realise(piece) if piece.shape == self._shape else pc.ravel(piece)
        return da.concatenate([pc.ravel(piece) for piece in self._pieces])

    def make_in_full(self) -> None:
        """Have the tasks of all layers made, for others to look at."""
        self._held = [p if isinstance(p, Zeros) else array_in_full(p) for p in self._pieces]

    def as_shape(self, shape: Shape) -> Piece:
        """Return one piece of `shape`, with the chunks of the pieces wherever possible."""
        piece = pc.assemble(self._pieces, shape)
        self.adopt([piece])
        return piece

    def adopt(self, pieces: list[Piece]) -> None:
        """Keep a vector that has no layout in that of `pieces`, which have the same elements.

        Without this the same data would be moved again in every step of a solver.
        """
        flat = all(isinstance(p, DaskArray) and p.ndim == 1 for p in self._pieces)
        if self.ndim == 1 and flat and all(isinstance(p, DaskArray) for p in pieces):
            self._held = list(pieces)

    def __repr__(self) -> str:
        layout = ", ".join(str(piece.shape) for piece in self._pieces)
        return f"<DispatchArray shape={self._shape} dtype={self._dtype} pieces=[{layout}]>"

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("len() of unsized object")
        return self._shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__

    # ---- values ----------------------------------------------------------------------

    def read(self, what: str) -> Any:
        """Return the only element of a box.

        In a solver this first persists, in one execution, all that the step made; elsewhere
        it is an implicit compute, and a matter of policy.
        """
        if self.size != 1:
            if what == "item()":
                raise ValueError("can only convert an array of size 1 to a Python scalar")
            if what == "bool()":
                raise ValueError(
                    "The truth value of an array with more than one element is ambiguous."
                )
            raise TypeError("only 0-dimensional arrays can be converted to Python scalars")
        if self.ndim:
            return self.reshape(()).read(what)
        if self._value is None:
            current = session.get()
            if current is None or not current.may_read:
                report_implicit_compute(what)
            if current is None:
                self._value = self.dask().compute()[()]
            else:
                count_read(what)
                current.persist(self)
        return self._value

    def settle(self, value: Any) -> None:
        """Remember the value of a 0-d box, so that arithmetic on it builds no graph."""
        self._value = value

    def __float__(self) -> float:
        return float(self.read("float()"))

    def __int__(self) -> int:
        return int(self.read("int()"))

    def __complex__(self) -> complex:
        return complex(self.read("complex()"))

    def __bool__(self) -> bool:
        current = session.get()
        if self._value is None and current is not None and current.assumes(self):
            return True
        return bool(self.read("bool()"))

    def __index__(self) -> int:
        return operator.index(self.read("operator.index()"))

    def __format__(self, spec: str) -> str:
        return format(self.read("format()"), spec) if spec else str(self)

    def __str__(self) -> str:
        current = session.get()
        readable = self._value is not None or (current is not None and current.may_read)
        # what a solver prints is for the user, as NumPy prints it
        return str(self.read("str()")) if readable and not self.ndim else repr(self)

    def tolist(self) -> Any:
        """Return nested lists of Python scalars."""
        return np.asarray(self).tolist()

    def item(self) -> Any:
        """Return the only element as a Python scalar."""
        return self.read("item()").item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.ndim == 0:
            return np.asarray(self.read("np.asarray()"), dtype=dtype)
        report_implicit_compute("np.asarray()")
        return np.asarray(self.dask().compute(), dtype=dtype)

    def compute(self) -> Any:
        """Compute, as the method of a dask array does."""
        return self.dask().compute()

    # ---- NumPy's protocols -----------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from pylops_dispatch.functions import call_ufunc

        written = kwargs.get("out") is not None
        result = call_ufunc(ufunc, method, inputs, kwargs)
        if method == "__call__" and not written and not _are_in_c_order(inputs):
            for box in result if isinstance(result, tuple) else (result,):
                _lay_out(box, inputs)
        return result

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from pylops_dispatch.functions import call_function

        written = kwargs.get("out") is not None
        result = call_function(func, args, kwargs)
        if func in _KEEP_LAYOUT and not written and not _are_in_c_order(args):
            _lay_out(result, args[:1] if func in _LIKE else args)
        return result

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        from pylops_dispatch.namespace import dask_namespace

        return dask_namespace

    # ---- shapes ----------------------------------------------------------------------

    def reshape(self, *shape: Any, order: str = "C") -> DispatchArray:
        """Reshape; between a vector and its pieces this is free."""
        if order not in ("C", "A"):
            raise not_dispatched(f"reshape(order={order!r})", "Only C order is lazy.")
        target = shape[0] if len(shape) == 1 and np.iterable(shape[0]) else shape
        wanted = _complete(tuple(int(n) for n in target), self.size)
        strides = None
        if self._strides is not None:
            memory = layout.reshaped(self.memory(), wanted)
            if memory is None:
                return self._reshaped(wanted)
            strides = layout.strides_of(memory)
        return self._reshaped(wanted).viewing(
            self,
            lambda box: box._reshaped(wanted),
            lambda box, value: box.assign(value._reshaped(box.shape)),
            strides,
        )

    def _reshaped(self, shape: Shape) -> DispatchArray:
        of = self._as_it_was()
        pieces = list(of._pieces) if len(shape) == 1 else [of.as_shape(shape)]
        if len(shape) > 1:
            _remember(pieces[0], of._pieces)
        box = DispatchArray(pieces, shape, self._dtype)
        box._value = self._value
        return box

    def _as_it_was(self) -> DispatchArray:
        """Return the vector that this was reshaped from, whose blocks were moved for that."""
        if self.ndim < 2 or (pieces := _known(_moved, self._pieces[0])) is None:
            return self
        return DispatchArray(list(pieces), (self.size,), self._dtype)

    def ravel(self, order: str = "C") -> DispatchArray:
        """Return the vector: the layout is remembered, nothing moves.

        As in NumPy it is a copy where there are gaps, or another order; ``reshape(-1)`` is one
        only where it must be.
        """
        vector = self.reshape(-1, order=order)
        return vector if self._strides is None else vector.copy()

    def flatten(self, order: str = "C") -> DispatchArray:
        """Return the vector in a box of its own."""
        return self.ravel(order).copy()

    def squeeze(self, axis: Any = None) -> DispatchArray:
        """Drop axes of length one."""
        axes = range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        dropped = {int(a) % self.ndim for a in axes if axis is not None or self._shape[a] == 1}
        if any(self._shape[a] != 1 for a in dropped):
            raise ValueError("cannot select an axis to squeeze out which has size not equal to one")
        return self.reshape(tuple(n for a, n in enumerate(self._shape) if a not in dropped))

    def transpose(self, *axes: Any) -> DispatchArray:
        """Permute the axes."""
        order = axes[0] if len(axes) == 1 and (axes[0] is None or np.iterable(axes[0])) else axes
        wanted = (
            tuple(int(a) % self.ndim for a in order) if order else tuple(range(self.ndim))[::-1]
        )
        back = tuple(int(a) for a in np.argsort(wanted))
        return self._transposed(wanted).viewing(
            self,
            lambda box: box._transposed(wanted),
            lambda box, value: box.assign(value._transposed(back)),
            layout.strides_of(self.memory().transpose(wanted)) if self.ndim > 1 else self._strides,
        )

    def _transposed(self, axes: Shape) -> DispatchArray:
        piece = self._pieces[0]
        if self.ndim < 2:
            return self.copy()
        if isinstance(piece, Zeros):
            return DispatchArray(Zeros(tuple(self._shape[a] for a in axes), self._dtype))
        return DispatchArray(piece.transpose(axes))

    @property
    def T(self) -> DispatchArray:
        """The axes in reverse order."""
        return self.transpose()

    def swapaxes(self, axis1: int, axis2: int) -> DispatchArray:
        """Exchange two axes."""
        order = list(range(self.ndim))
        order[axis1], order[axis2] = order[axis2], order[axis1]
        return self.transpose(order)

    @property
    def mT(self) -> DispatchArray:
        """The last two axes exchanged."""
        return self.swapaxes(-2, -1)

    def clip(self, min: Any = None, max: Any = None, out: Any = None, **kwargs: Any) -> Any:
        """See :func:`numpy.clip`."""
        return np.clip(self, min, max, out, **kwargs)

    def compress(self, condition: Any, axis: int | None = None, out: Any = None) -> Any:
        """See :func:`numpy.compress`."""
        return np.compress(condition, self, axis=axis, out=out)

    # ---- element-wise ----------------------------------------------------------------

    def copy(self, order: str = "C") -> DispatchArray:
        """Return a box of its own on the same, immutable, pieces."""
        box = DispatchArray(list(self._pieces), self._shape, self._dtype)
        box._value = self._value
        if order != "C" and self._strides is not None:
            _lay_out(box, [self])
        return box

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> DispatchArray:
        return self.copy()

    def map(self, func: Callable[[DaskArray], DaskArray], of_zeros: Any = None) -> DispatchArray:
        """Apply `func`, which keeps shapes, to each piece."""
        box = self._mapped(func, of_zeros)
        if self._strides is not None:
            _lay_out(box, [self])
        return box

    def _mapped(self, func: Callable[[DaskArray], DaskArray], of_zeros: Any) -> DispatchArray:
        if of_zeros is not None and all(isinstance(p, Zeros) for p in self._pieces):
            dtype = np.dtype(of_zeros)
            return DispatchArray([Zeros(p.shape, dtype) for p in self._pieces], self._shape, dtype)
        return DispatchArray([func(pc.realise(p)) for p in self._pieces], self._shape)

    def astype(self, dtype: Any, copy: bool = True, **kwargs: Any) -> DispatchArray:
        """Convert the elements to `dtype`."""
        wanted = np.dtype(dtype)
        if wanted == self._dtype:
            return self.copy("K") if copy else self
        return self.map(lambda p: p.astype(wanted, **kwargs), of_zeros=wanted)

    def conj(self) -> DispatchArray:
        """Complex conjugate; of real numbers, as in NumPy, the array itself."""
        if self._dtype.kind != "c":
            return self
        box = self.map(lambda p: p.conj(), of_zeros=self._dtype)
        box._conjugated = self.names
        return box

    conjugate = conj

    def _part(self, func: Callable[[DaskArray], DaskArray]) -> DispatchArray:
        return self.map(func, of_zeros=pc.real_dtype(self._dtype))

    @property
    def real(self) -> DispatchArray:
        """Real part."""
        if self._dtype.kind != "c":
            return self.reshape(self._shape)
        return self._part(lambda p: p.real).viewing(
            self,
            lambda box: box._part(lambda p: p.real),
            lambda box, value: box.assign(value + 1j * box._part(lambda p: p.imag)),
            self.strides,
        )

    @real.setter
    def real(self, value: Any) -> None:
        self.assign(value + 1j * self._part(lambda p: p.imag))

    @property
    def imag(self) -> DispatchArray:
        """Imaginary part."""
        return self._part(lambda p: p.imag).viewing(
            self,
            lambda box: box._part(lambda p: p.imag),
            lambda box, value: box.assign(box._part(lambda p: p.real) + 1j * value),
            self.strides,
        )

    @imag.setter
    def imag(self, value: Any) -> None:
        self.assign(self._part(lambda p: p.real) + 1j * value)

    # ---- reading and writing parts ---------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        from pylops_dispatch.functions.indexing import getitem

        return getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        from pylops_dispatch.functions.indexing import setitem

        setitem(self, index, value)

    @property
    def flat(self) -> Any:
        """Refused: a write through it would be lost."""
        raise not_dispatched("ndarray.flat", "Index the array itself.")

    def assign(self, value: Any) -> None:
        """Take over the contents of `value`, keeping shape and dtype of the box."""
        source = as_box(value, self)
        if source.shape != self._shape:
            source = as_box(np.broadcast_to(source, self._shape), self)
        if source.dtype != self._dtype:
            source = source.astype(self._dtype)
        self._written(list(source._pieces), source._value)

    def rebind(self, pieces: list[Piece]) -> None:
        """Write other pieces, of the same total size and dtype, into the box."""
        self._written(pieces)

    def replace(self, pieces: list[Piece]) -> None:
        """Hold the same values in another form, in memory for example."""
        self._held, self._recall, self._in_parts = pieces, None, False

    def let_go(self, recall: Callable[[], list[Piece]]) -> None:
        """Hold nothing but a function that returns the pieces, should anybody ask for them."""
        self._held, self._recall, self._in_parts = [], recall, False

    @property
    def is_let_go(self) -> bool:
        """Whether the pieces are to be recalled first."""
        return self._recall is not None and not self._in_parts

    def fill(self, value: Any) -> None:
        """Write `value` everywhere."""
        self.assign(np.full_like(self, value))


def _in_place(name: str, operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return the method for ``+=`` or its like: what NumPy has a scalar for becomes another."""
    on_array = getattr(np.lib.mixins.NDArrayOperatorsMixin, name)

    def method(self: DispatchArray, other: Any) -> Any:
        scalar = not self._shape and self._view is None
        return operation(self, other) if scalar else on_array(self, other)

    return method


for _name in (
    "add", "and", "floordiv", "lshift", "mod", "mul", "or", "pow", "rshift", "sub", "truediv",
    "xor",
):  # fmt: skip
    _operation = getattr(operator, f"__{_name}__")
    setattr(DispatchArray, f"__i{_name}__", _in_place(f"__i{_name}__", _operation))


@normalize_token.register(DispatchArray)
def _in_a_task(box: DispatchArray) -> None:
    """Refuse to be an argument of a task: dask names its arguments, and knows what arrays are."""
    raise not_dispatched("a function of dask.array", "It takes no lazy array in this place.")


_Read = Callable[[DispatchArray], DispatchArray]
_Write = Callable[[DispatchArray, DispatchArray], None]


@dataclass
class _View:
    """What a box is a view of: the array itself, how to take the view of it and to put it back."""

    root: DispatchArray
    read: _Read
    write: _Write
    version: int


# functions that lay out their result as their arguments are (order "K")
_LIKE = {np.zeros_like, np.ones_like, np.empty_like, np.full_like}
_KEEP_LAYOUT = {*_LIKE, np.copy, np.where, np.clip, np.nan_to_num, np.angle, np.round, np.around}


def _are_in_c_order(values: Sequence[Any]) -> bool:
    return all(
        value._strides is None
        if isinstance(value, DispatchArray)
        else not isinstance(value, np.ndarray) or value.flags.c_contiguous
        for value in values
    )


def _lay_out(result: Any, operands: Sequence[Any]) -> None:
    """Give a result the strides that NumPy would give it."""
    if isinstance(result, DispatchArray) and result.ndim > 1:
        arrays = [a for a in operands if isinstance(a, (DispatchArray, np.ndarray))]
        result._strides = layout.of_result(result._shape, result.itemsize, arrays)


def _complete(shape: Shape, size: int) -> Shape:
    if shape.count(-1) == 1:
        known = math.prod(n for n in shape if n != -1)
        if known and size % known == 0:
            shape = tuple(size // known if n == -1 else n for n in shape)
    if math.prod(shape) != size or -1 in shape:
        raise ValueError(f"cannot reshape array of size {size} into shape {shape}")
    return shape


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np, name)

    def method(self: DispatchArray, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__doc__ = f"See :func:`numpy.{name}`."
    return method


for _name in (
    "all", "any", "argmax", "argmin", "argsort", "cumprod", "cumsum", "diagonal", "dot",
    "max", "mean", "min", "nonzero", "prod", "ptp", "repeat", "round", "std", "sum", "take",
    "trace", "var", "put",
):  # fmt: skip
    setattr(DispatchArray, _name, _method(_name))


# ---- the way in and out ------------------------------------------------------------------

_Layouts = dict[int, tuple[weakref.ref[Any], str, list[Piece]]]

# what a 1-D dask array that we gave out was flattened from: a user's own loop gets it back
_flattened: _Layouts = {}
# what an n-d array was reshaped from, by moving it, which may be all that was to be done with it
_moved: _Layouts = {}


def is_dask(x: Any) -> bool:
    """Whether `x` is a dask array, of either of dask's two kinds."""
    return isinstance(x, DaskArray) or type(x).__module__.startswith("dask.array._array_expr")


def is_box(x: Any) -> bool:
    """Whether `x` is a box."""
    return isinstance(x, DispatchArray)


def is_lazy(x: Any) -> bool:
    """Whether `x` is a box or a dask array."""
    return is_box(x) or is_dask(x)


def source(x: Any) -> DaskArray:
    """Return the dask array that a coefficient is read from: in a solve, one in memory."""
    if isinstance(x, DispatchArray):
        return x.dask()
    from pylops_dispatch.placing import sent_once

    check(x, "a coefficient")
    current = session.get()
    return without_empty_chunks(sent_once(x if current is None else current.leaf(x)))


def values_of(x: Any) -> Any:
    """Compute a box or a dask array: only where that has been announced, or asked for."""
    return (x.dask() if is_box(x) else x).compute()


def check(x: Any, name: str = "x") -> None:
    """Raise for dask arrays that cannot be worked on, before anything is done.

    Raises
    ------
    TypeError
        If the elements are Python objects, or `x` is of dask's expression mode.
    ValueError
        If chunk sizes are unknown.
    """
    if not isinstance(x, DaskArray):
        raise TypeError(
            f"{name} is a dask array of the expression mode, which is not supported. "
            "Set dask.config.set({'array.query-planning': False}) before importing dask.array."
        )
    if x.dtype.kind not in "biufc":
        raise TypeError(
            f"{name} has dtype {x.dtype}, and linear operators need numbers. "
            f"Convert it first: {name}.astype(float)."
        )
    if any(math.isnan(n) for n in x.shape):
        raise ValueError(
            f"{name} has chunks of unknown size {x.chunks}. "
            f"Call {name}.compute_chunk_sizes() first."
        )


def check_vector(x: Any, name: str = "x") -> None:
    """Raise for dask arrays that operators cannot be applied to, before anything is done.

    Raises
    ------
    TypeError, ValueError
        As :func:`check` does, and if the blocks are other than NumPy's or CuPy's arrays.
    """
    check(x, name)
    kind = type(x._meta)
    if issubclass(kind, np.ma.MaskedArray):
        raise TypeError(
            f"{name} has masked blocks, and operators do not know masks: say what stands for the "
            f"masked elements, as in dask.array.ma.filled({name}, 0)"
        )
    if not issubclass(kind, np.ndarray) and not kind.__module__.startswith("cupy"):
        raise TypeError(
            f"{name} has blocks of {kind.__module__}.{kind.__qualname__}, and operators work on "
            f"NumPy's arrays: {name}.map_blocks(lambda block: block.todense()) makes such of "
            "sparse ones"
        )


def lift(x: Any) -> Any:
    """Put a dask array into a box, with the layout that it was flattened from if that is known.

    The box has its own array object, so that ``x[...] = v`` of the user does not reach it. All
    else comes back as it is.
    """
    if isinstance(x, DispatchArray) or not is_dask(x):
        return x
    check(x)
    array: DaskArray = x
    pieces = layout_of(array)
    if pieces is not None:
        return DispatchArray(list(pieces), array.shape)
    return DispatchArray(without_empty_chunks(array).copy())


def layout_of(array: DaskArray) -> list[Piece] | None:
    """Return the pieces that a dask array was flattened from, None for any other array."""
    return _known(_flattened, array)


def _known(table: _Layouts, array: Any) -> list[Piece] | None:
    """Return what a table has for an array, if that is still what it was."""
    known = table.get(id(array))
    if known is not None and known[0]() is array and known[1] == getattr(array, "name", ""):
        return known[2]
    return None


def _remember(piece: Piece, pieces: list[Piece]) -> None:
    """Remember the pieces, laid out otherwise, that an array was reshaped from."""
    if isinstance(piece, DaskArray) and not any(piece is known for known in pieces):
        _keep(_moved, piece, pieces)


def _keep(table: _Layouts, array: DaskArray, pieces: list[Piece]) -> None:
    key = id(array)
    reference = weakref.ref(array, lambda _: table.pop(key, None))
    table[key] = (reference, array.name, list(pieces))


def without_empty_chunks(x: DaskArray) -> DaskArray:
    """Return an array whose chunks all have samples, as far as its axes have; others are kept."""
    if all(0 not in sizes for sizes in x.chunks):
        return x
    return x.rechunk(tuple(tuple(n for n in sizes if n) or (0,) for sizes in x.chunks))


def lower(box: DispatchArray) -> Any:
    """Take the dask array out of a box; a scalar that has been read comes out as such."""
    if box.ndim == 0 and box.value is not None:
        return box.value
    box.make_in_full()
    x = box.dask()
    if box.ndim == 1 and not (len(box.pieces) == 1 and x is box.pieces[0]):
        _keep(_flattened, x, list(box.pieces))
        return x
    return x.copy()


def as_box(x: Any, model: DispatchArray | None = None) -> DispatchArray:
    """Return anything array-like as a box; NumPy arrays get the layout of `model`."""
    if isinstance(x, DispatchArray):
        return x
    if isinstance(x, DaskArray):
        return lift(x) if session.get() is None else DispatchArray(source(x))
    array = np.asarray(x)
    if array.dtype.kind == "O":
        raise not_dispatched("an array of objects", "Use numbers.")
    if array.ndim == 0:
        box = DispatchArray(da.from_array(array))
        box.settle(array[()])
        return box
    if model is not None and model.shape == array.shape and not _symbolic(model):
        if len(model.pieces) == 1 and model.pieces[0].shape != array.shape:
            array = array.reshape(model.pieces[0].shape)
        elif len(model.pieces) > 1:
            return DispatchArray([_part(array, *cut) for cut in _cuts(model)], model.shape)
        chunks = pc.realise(model.pieces[0]).chunks
        return DispatchArray(wrapping.get()(array, chunks), model.shape)
    return DispatchArray(wrapping.get()(array, "auto"))


def _symbolic(box: DispatchArray) -> bool:
    return all(isinstance(piece, Zeros) for piece in box.pieces)


def _cuts(model: DispatchArray) -> Iterator[tuple[int, Piece]]:
    offset = 0
    for piece in model.pieces:
        yield offset, piece
        offset += pc.size(piece)


def _part(array: np.ndarray[Any, Any], offset: int, piece: Piece) -> DaskArray:
    part = array[offset : offset + pc.size(piece)].reshape(piece.shape)
    return wrapping.get()(part, "auto" if isinstance(piece, Zeros) else piece.chunks)


def lower_all(x: Any) -> Any:
    """Lower every box in nested lists, tuples and dicts."""
    return walk(x, is_box, lower)


def found(x: Any, kinds: Callable[[Any], bool], around: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Yield what nested lists, tuples, dicts and dataclasses hold for which `kinds` is true.

    Parameters
    ----------
    x : object
        What may hold some, or be one.
    kinds : callable
        Which.
    around : tuple, optional
        Objects that `x` was found in, which may be found in it again.
    """
    if isinstance(x, _CONTAINERS):
        # Values are taken at once: another thread may give an operator an attribute.
        for value in list(x.values()) if isinstance(x, dict) else list(x):
            yield from found(value, kinds, around)
    elif kinds(x):
        yield x
    elif _has_fields(x) and not any(x is outer for outer in around):
        for value in list(vars(x).values()):
            yield from found(value, kinds, (*around, x))


_CONTAINERS = (dict, list, tuple, deque)


def _has_fields(x: Any) -> bool:
    """Whether an object is there to hold values under names: a dataclass, or a namespace."""
    kind = type(x)
    named = hasattr(kind, "__dataclass_fields__") or kind is SimpleNamespace
    # a user's callbacks are what they were, and see dask arrays
    return named and hasattr(x, "__dict__") and not hasattr(kind, "on_step_end")


def holds(x: Any, kinds: Callable[[Any], bool]) -> bool:
    """Whether nested lists, tuples and dicts hold something for which `kinds` is true."""
    return any(True for _ in found(x, kinds))


def walk(
    x: Any,
    matches: Callable[[Any], bool],
    change: Callable[[Any], Any],
    made: dict[int, Any] | None = None,
) -> Any:
    """Return what :func:`found` looks into with what `matches` changed, and else as it was.

    Parameters
    ----------
    x : object
        What may hold some, or be one.
    matches : callable
        Which are to be changed.
    change : callable
        Gives what is to be in their places.
    made : dict, optional
        Copies that hold `x`, by what they are copies of: it may hold these in turn.
    """
    if not holds(x, matches):
        return x
    made = {} if made is None else made
    if isinstance(x, dict):
        items = {k: walk(v, matches, change, made) for k, v in list(x.items())}
        if type(x) is dict:
            return items
        new = copy.copy(x)  # defaultdict, which knows what is missing
        new.update(items)
        return new
    if isinstance(x, (list, tuple, deque)):
        values = [walk(v, matches, change, made) for v in x]
        if isinstance(x, tuple):
            return x._make(values) if hasattr(x, "_make") else tuple(values)
        if type(x) is list:
            return values
        sized = copy.copy(x)  # deque, which knows how many there may be
        sized.clear()
        sized.extend(values)
        return sized
    if matches(x):
        return change(x)
    if id(x) not in made:
        made[id(x)] = copy.copy(x)
        fields = {k: walk(v, matches, change, made) for k, v in list(vars(x).items())}
        vars(made[id(x)]).update(fields)
    return made[id(x)]
