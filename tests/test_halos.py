"""Halos, overlapping spans and their adjoint, against slices of a NumPy array."""

import itertools

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylops_dispatch.halos import extended, fold, gather, halo_faces, surroundings

from .helpers import assert_same, chunks_for, rand, to_dask

SHAPES = [(11,), (9, 4), (4, 9), (5, 6, 4)]


@st.composite
def spans_for(draw, n):
    """Spans in any order, which may overlap, repeat, or leave samples out."""
    bounds = st.tuples(st.integers(0, n - 1), st.integers(1, n))
    spans = draw(st.lists(bounds, min_size=1, max_size=5))
    return [(min(low, high - 1), max(low + 1, high)) for low, high in spans]


def along(axis, low, high):
    return (*(slice(None),) * axis, slice(low, high))


def slices_of(chunks):
    """Where each block lies, by its index."""
    edges = [np.cumsum([0, *sizes]).tolist() for sizes in chunks]
    indices = np.ndindex(*map(len, chunks))
    return {i: tuple(slice(e[k], e[k + 1]) for e, k in zip(edges, i, strict=True)) for i in indices}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(choice=st.data())
def test_blocks_that_are_gathered_are_the_samples_of_their_spans(shape, choice):
    axis = choice.draw(st.integers(0, len(shape) - 1))
    spans = choice.draw(spans_for(shape[axis]))
    x0 = rand(shape)
    gathered = gather(to_dask(x0, choice.draw(chunks_for(shape))), axis, spans)
    expected = [x0[along(axis, low, high)] for low, high in spans]
    assert gathered.chunks[axis] == tuple(high - low for low, high in spans)
    assert_same(gathered, np.concatenate(expected, axis))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(choice=st.data())
def test_blocks_that_are_folded_are_added_where_they_lie(shape, choice):
    axis = choice.draw(st.integers(0, len(shape) - 1))
    spans = choice.draw(spans_for(shape[axis]))
    chunks = choice.draw(chunks_for(shape))
    lengths = tuple(high - low for low, high in spans)
    blocks = rand((*shape[:axis], sum(lengths), *shape[axis + 1 :]))
    kept, expected, first = blocks.copy(), np.zeros(shape), 0
    for (low, high), length in zip(spans, lengths, strict=True):
        expected[along(axis, low, high)] += blocks[along(axis, first, first + length)]
        first += length
    x = to_dask(blocks, (*chunks[:axis], lengths, *chunks[axis + 1 :]))
    folded = fold(x, axis, spans, chunks[axis])
    assert folded.chunks == chunks
    assert_same(folded, expected)
    np.testing.assert_array_equal(blocks, kept)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(choice=st.data())
def test_a_block_and_its_faces_are_the_samples_around_it(shape, choice):
    chunks = choice.draw(chunks_for(shape))
    depth = choice.draw(st.tuples(*(st.integers(0, 3) for _ in shape)))
    x0 = rand(shape)
    x = to_dask(x0, chunks)
    faces = halo_faces(x, depth)
    cut = [axis for axis, _ in enumerate(shape) if depth[axis] and len(chunks[axis]) > 1]
    assert [axis for axis, _, _ in faces] == cut
    pairs = list(itertools.chain(*(pair for _, *pair in faces)))
    for index, where in slices_of(chunks).items():
        block, *around = dask.compute(
            x.blocks[index], *(f.blocks[index] for f in pairs), scheduler="synchronous"
        )
        assert_laid_out(extended(block, cut, around), x0, where, depth)


def assert_laid_out(whole, x0, where, depth):
    """A block at `where` of an array lies with its halo as it does in that array."""
    reached = tuple(
        slice(max(s.start - d, 0), min(s.stop + d, n))
        for s, d, n in zip(where, depth, x0.shape, strict=True)
    )
    wanted = x0[reached]
    assert whole.shape == wanted.shape
    for part in (
        tuple(slice(0, n) for n in whole.shape),
        tuple(slice(n // 3, n - n // 3) for n in whole.shape),
        whole.parts[0][1],
    ):
        np.testing.assert_array_equal(whole.window(part), wanted[part])
    np.testing.assert_array_equal(whole.window(whole.parts[0][1]), x0[where])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(choice=st.data())
def test_a_block_among_its_neighbours_is_what_lies_around_it(shape, choice):
    depth = choice.draw(st.tuples(*(st.integers(0, 4) for _ in shape)))
    x0, chunks = rand(shape), choice.draw(chunks_for(shape))
    x = to_dask(x0, chunks)
    held = dict(x.persist(scheduler="sync").dask).items()
    blocks = {key: getattr(node, "value", node) for key, node in held}
    found = list(surroundings(x, depth, x.numblocks))
    for (keys, how), where in zip(found, slices_of(chunks).values(), strict=True):
        assert_laid_out(how.filled([blocks[ref.key] for ref in keys]), x0, where, depth)
        assert len(set(keys)) == len(keys)


def test_the_only_block_of_an_axis_is_that_of_all_blocks():
    x = to_dask(rand((1, 6)), ((1,), (3, 3)))
    keys = [[ref.key[1:] for ref in keys] for keys, _ in surroundings(x, (2, 1), (2, 2))]
    assert keys == [[(0, 0), (0, 1)], [(0, 1), (0, 0)]] * 2
