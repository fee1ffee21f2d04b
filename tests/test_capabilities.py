"""The capability table has every public operator of PyLops."""

import inspect

import dask.array as da
import numpy as np
import pylops
import pylops.avo
import pylops.medical
import pylops.signalprocessing
import pylops.waveeqprocessing
import pytest

import pylops_dispatch

NAMESPACES = [
    pylops,
    pylops.signalprocessing,
    pylops.waveeqprocessing,
    pylops.avo,
    pylops.medical,
]
NOT_OPERATORS = {
    "PyTensorOperator": "wraps an operator for PyTensor's arrays",
    "TorchOperator": "wraps an operator for PyTorch's arrays",
    "Report": "prints versions",
    "aslinearoperator": "wraps what it is given",
}
# packages of functions that neither build an operator nor solve with one
HELPERS = ("pylops.config", "pylops.optimization.", "pylops.utils.")


def public(namespace):
    names = getattr(namespace, "__all__", None) or [n for n in vars(namespace) if n[0] != "_"]
    for name in names:
        value = getattr(namespace, name)
        if (
            inspect.isclass(value) or inspect.isfunction(value)
        ) and not value.__module__.startswith(HELPERS):
            yield name


def entry(namespace, name):
    table = pylops_dispatch.capabilities()
    found = [key for key in table if key.rpartition(".")[2] == name]
    assert found, f"{namespace.__name__}.{name} has no entry in the capability table"
    return table[found[0]]


@pytest.mark.parametrize("namespace", NAMESPACES, ids=lambda n: n.__name__)
def test_every_public_name_has_an_entry(namespace):
    for name in public(namespace):
        if name not in NOT_OPERATORS and not name.endswith("_design"):
            assert entry(namespace, name).kind


def test_every_entry_is_a_public_name_of_pylops():
    for key in pylops_dispatch.capabilities():
        package, _, name = key.rpartition(".")
        if package.startswith("pylops.") or package == "pylops":
            namespace = next(n for n in NAMESPACES if n.__name__ == package)
            assert hasattr(namespace, name), key


def test_few_operators_need_the_whole_vector_and_each_says_why():
    # of PyLops: other tests register rules too, and these run in any order
    whole = {
        name: rule.note
        for name, rule in pylops_dispatch.capabilities().items()
        if rule.kind == "whole" and name.startswith("pylops.")
    }
    assert 0 < len(whole) <= 12
    assert all(len(note) > 20 for note in whole.values()), whole


def test_a_name_without_an_entry_is_noticed(monkeypatch):
    def Imaging():
        """A function of a newer PyLops."""

    Imaging.__module__ = "pylops.waveeqprocessing.imaging"
    monkeypatch.setattr(pylops.waveeqprocessing, "Imaging", Imaging, raising=False)
    monkeypatch.setattr(
        pylops.waveeqprocessing, "__all__", [*pylops.waveeqprocessing.__all__, "Imaging"]
    )
    with pytest.raises(AssertionError, match="Imaging has no entry"):
        test_every_public_name_has_an_entry(pylops.waveeqprocessing)


def test_the_table_can_be_extended():
    class Doubled(pylops.LinearOperator):
        def __init__(self, dims):
            super().__init__(dtype=np.dtype(float), dims=dims, dimsd=dims)

        def _matvec(self, x):
            return 2 * x

        _rmatvec = _matvec

    pylops_dispatch.register_rule(Doubled, pylops_dispatch.halo(0))
    try:
        assert any("Doubled" in name for name in pylops_dispatch.capabilities())
    finally:
        del pylops_dispatch.rules.RULES[Doubled]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: pylops_dispatch.halo("one"), TypeError, "depth, .* integer, got 'one'"),
        (lambda: pylops_dispatch.halo(-1), ValueError, "depth, .* at least 0, got -1"),
        (lambda: pylops_dispatch.halo((1, 0.5)), TypeError, "depth, .* integer, got 0.5"),
        (lambda: pylops_dispatch.whole_axis("time"), TypeError, "axes must be integers.*'time'"),
        (lambda: pylops_dispatch.alone("diag"), TypeError, "coefficients must be a tuple"),
        (lambda: pylops_dispatch.whole(" "), ValueError, "needs a reason"),
        (lambda: pylops_dispatch.parallel_sum(model="row"), ValueError, "both model and data"),
        (lambda: pylops_dispatch.parallel_sum(model=2, data="row"), TypeError, "model must be"),
        (lambda: pylops_dispatch.parallel_sum(model="a a", data="a"), ValueError, "'a a' need"),
        (
            lambda: pylops_dispatch.parallel_sum(
                model="column", data="row", coefficients={"A": "row colum"}
            ),
            ValueError,
            "'colum': no axis of the model",
        ),
    ],
)
def test_a_wrong_rule_is_told_when_it_is_made(make, error, said):
    with pytest.raises(error, match=said):
        make()


class Doubles(pylops.LinearOperator):
    """Runs along an axis, as far as its rule says."""

    def __init__(self, dims):
        super().__init__(dtype=np.dtype(float), dims=dims, dimsd=dims)

    def _matvec(self, x):
        return 2 * x

    _rmatvec = _matvec


@pytest.mark.parametrize(("axes", "whole"), [(0, (0,)), (-1, (2,)), ((0, -1), (0, 2))])
def test_axes_are_given_by_number(axes, whole):
    pylops_dispatch.register_rule(Doubles, pylops_dispatch.whole_axis(axes))
    try:
        x = da.ones((8, 6, 4), chunks=2)
        op = Doubles(x.shape)
        said = str(pylops_dispatch.capability(op))
        assert f"{', '.join(map(str, whole))} in one block" in said
        np.testing.assert_array_equal((op @ x).compute(), np.full(x.shape, 2.0))
    finally:
        del pylops_dispatch.rules.RULES[Doubles]


def test_a_halo_for_other_axes_says_what_to_give():
    pylops_dispatch.register_rule(Doubles, pylops_dispatch.halo((1, 0)))
    try:
        with pytest.raises(ValueError, match=r"halo of .1, 0.,.*dims \(8, 6, 4\)"):
            Doubles((8, 6, 4)) @ da.ones((8, 6, 4), chunks=2)
    finally:
        del pylops_dispatch.rules.RULES[Doubles]
