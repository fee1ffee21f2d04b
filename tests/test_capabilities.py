"""The capability table has every public operator of PyLops."""

import inspect

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
    whole = {n: r for n, r in pylops_dispatch.capabilities().items() if r.kind == "whole"}
    assert len(whole) <= 12
    assert all(len(rule.note) > 20 for rule in whole.values())


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
