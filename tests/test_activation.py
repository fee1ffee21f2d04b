"""enable, disable, disabled: PyLops as it was, exactly, and NumPy untouched."""

import concurrent.futures
import functools
import importlib
import pkgutil
import textwrap
import threading

import dask.array as da
import numpy as np
import pylops
import pytest
from pylops.utils.backend import get_array_module

import pylops_dispatch
from pylops_dispatch import activation, disabled, enable, is_enabled

from .catalogue import CATALOGUE, adjoint, build, case_id, data, model, nd
from .helpers import assert_bitwise, assert_close, assert_same, is_compiled, rand, to_dask
from .interpreters import run_python


def run(code, path=None):
    """A fresh interpreter; it must print `ok` last."""
    prefix = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path else ""
    result = run_python(prefix + textwrap.dedent(code))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip().splitlines()[-1] == "ok", result.stdout


# The attributes of all modules of a package and of all their classes, by identity.
SNAPSHOT = """
import importlib, pkgutil, sys

def snapshot(*packages):
    seen = {}
    for package in packages:
        root = importlib.import_module(package)
        for info in pkgutil.walk_packages(root.__path__, package + "."):
            try:
                importlib.import_module(info.name)
            except (ImportError, NameError):  # needs torch, jax or cuda
                continue
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in packages or module is None:
            continue
        for key, value in vars(module).items():
            if key.startswith("__"):
                continue
            seen[name, key] = value
            if isinstance(value, type) and value.__module__.split(".")[0] in packages:
                for attribute, member in vars(value).items():
                    if attribute in ("__dict__", "__weakref__", "_abc_impl"):
                        continue
                    seen[name, key, attribute] = member
    return seen

def differences(before, after):
    changed = [k for k in before.keys() & after.keys() if before[k] is not after[k]]
    return sorted(map(str, changed)) + sorted(map(str, before.keys() ^ after.keys()))
"""


# ----------------------------------------------------------- enable and disable


def test_importing_enables():
    run(
        """
        import pylops_dispatch
        assert pylops_dispatch.is_enabled()
        print("ok")
        """
    )


def test_enable_and_disable_are_idempotent():
    try:
        enable()
        enable()
        assert is_enabled()
        pylops_dispatch.disable()
        assert not is_enabled()
        pylops_dispatch.disable()
        assert not is_enabled()
        assert get_array_module(da.ones(3)) is np
        enable()
        assert is_enabled()
        assert_same(pylops.Diagonal(np.ones(3)) @ da.ones(3), np.ones(3))
    finally:
        enable()


def test_what_keeps_enable_from_its_end_leaves_pylops_as_it_was(monkeypatch):
    before = pylops.cgls
    pylops_dispatch.disable()
    plain = pylops.cgls

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(activation, "_change_solvers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            enable()
    assert not is_enabled()
    assert pylops.cgls is plain
    assert "__array_ufunc__" not in vars(pylops.LinearOperator)
    enable()
    assert pylops.cgls is before


def test_pylops_is_restored_by_identity():
    run(
        SNAPSHOT
        + textwrap.dedent(
            """
            before = snapshot("pylops")
            import pylops_dispatch
            inside = snapshot("pylops")
            assert differences(before, inside), "nothing was rebound"
            pylops_dispatch.disable()
            left = differences(before, snapshot("pylops"))
            assert not left, left
            pylops_dispatch.enable()
            pylops_dispatch.enable()
            assert not differences(inside, snapshot("pylops"))
            pylops_dispatch.disable()
            left = differences(before, snapshot("pylops"))
            assert not left, left
            print("ok")
            """
        )
    )


def test_numpy_scipy_and_dask_are_never_touched():
    run(
        SNAPSHOT
        + textwrap.dedent(
            """
            import numpy, scipy.sparse.linalg, scipy.signal, scipy.fft, scipy.ndimage
            import dask.array, distributed
            names = ["numpy", "scipy.sparse.linalg", "scipy.signal", "scipy.fft",
                     "scipy.ndimage", "scipy.linalg", "numpy.linalg", "numpy.fft",
                     "dask", "dask.base", "dask.array", "dask.array.core"]
            before = {n: dict(vars(importlib.import_module(n))) for n in names}
            array = dict(vars(dask.array.Array))
            import pylops_dispatch
            for n in names:
                after = vars(importlib.import_module(n))
                for key, value in before[n].items():
                    assert after[key] is value, (n, key)
            for key, value in vars(dask.array.Array).items():
                assert array[key] is value, key
            print("ok")
            """
        )
    )


def test_disabled_is_a_context_manager_that_nests():
    assert is_enabled()
    with disabled():
        assert not is_enabled()
        with disabled():
            assert not is_enabled()
        assert not is_enabled()
    assert is_enabled()


def test_disabled_is_left_after_an_error():
    with pytest.raises(RuntimeError, match="mine"), disabled():
        raise RuntimeError("mine")
    assert is_enabled()


def test_what_somebody_else_has_set_since_is_left(monkeypatch):
    before = pylops.LinearOperator.matvec
    calls = []

    def theirs(self, x):
        calls.append(type(x))
        return before(self, x)

    monkeypatch.setattr(pylops.LinearOperator, "matvec", theirs)
    with pylops_dispatch.disabled():
        assert pylops.LinearOperator.matvec is theirs
    pylops.Identity(3) @ np.ones(3)
    assert_close((pylops.Identity(3) @ da.ones(3, chunks=2)).compute(), np.ones(3))
    assert len(calls) == 2
    pylops_dispatch.disable()
    assert pylops.LinearOperator.matvec is theirs
    monkeypatch.undo()
    pylops_dispatch.enable()


def test_enabling_inside_disabled():
    with disabled():
        enable()
        assert is_enabled()
    assert is_enabled()


def test_disabled_inside_what_was_enabled_inside_disabled():
    with disabled():
        enable()
        with disabled():
            assert not is_enabled()
            with disabled():
                assert not is_enabled()
            assert not is_enabled()
        assert is_enabled()
    assert is_enabled()


def test_disabled_blocks_that_overlap():
    """As those of two threads do."""
    blocks = [disabled() for _ in range(3)]
    blocks[0].__enter__()
    enable()
    blocks[1].__enter__()
    blocks[0].__exit__(None, None, None)
    assert not is_enabled()
    blocks[2].__enter__()
    blocks[1].__exit__(None, None, None)
    assert not is_enabled()
    blocks[2].__exit__(None, None, None)
    assert is_enabled()
    with disabled():
        assert not is_enabled()
    assert is_enabled()


def test_disabled_when_it_was_already_disabled():
    pylops_dispatch.disable()
    try:
        with disabled():
            assert not is_enabled()
        assert not is_enabled()
    finally:
        enable()


def test_many_threads_enable_and_disable():
    """Whatever the order, the end state is whole: enabled, and it works."""
    barrier = threading.Barrier(4)

    def work(number):
        barrier.wait()
        for _ in range(20):
            with disabled():
                pylops.FirstDerivative(8) @ np.arange(8.0)
            if number % 2:
                enable()
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    enable()
    assert is_enabled()
    assert_same(
        pylops.FirstDerivative(8) @ da.arange(8.0, chunks=3),
        pylops.FirstDerivative(8) @ np.arange(8.0),
    )
    with disabled():
        assert get_array_module(da.ones(3)) is np


def test_disabled_from_threads_restores_by_identity():
    run(
        SNAPSHOT
        + textwrap.dedent(
            """
            import concurrent.futures
            before = snapshot("pylops")
            import pylops_dispatch

            def work(_):
                for _ in range(10):
                    with pylops_dispatch.disabled():
                        pass

            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                list(pool.map(work, range(4)))
            assert pylops_dispatch.is_enabled()
            pylops_dispatch.disable()
            left = differences(before, snapshot("pylops"))
            assert not left, left
            print("ok")
            """
        )
    )


# ------------------------------------------------------------- order of imports

USE = """
import dask.array as da, numpy as np
x = da.arange(12.0, chunks=5)
op = pylops.VStack([pylops.FirstDerivative(12), pylops.Diagonal(np.arange(12.0))])
y = op @ x
assert type(y) is da.Array, type(y)
np.testing.assert_array_equal(y.compute(), op @ np.arange(12.0))
z = pylops.cgls(op, y, niter=3)[0]
assert type(z) is da.Array, type(z)
"""


@pytest.mark.parametrize("first", ["pylops", "pylops_dispatch"])
def test_order_of_the_imports(first):
    second = {"pylops": "pylops_dispatch", "pylops_dispatch": "pylops"}[first]
    run(f"import {first}\nimport {second}\n" + USE + "print('ok')")


def test_names_imported_from_pylops_before():
    run(
        """
        from pylops import FirstDerivative, VStack, cgls, LinearOperator
        from pylops.optimization.basic import lsqr
        from pylops.optimization.sparsity import fista
        from pylops.optimization.cls_basic import CG
        import pylops_dispatch
        import dask.array as da, numpy as np
        x = da.arange(12.0, chunks=5)
        op = FirstDerivative(12)
        assert type(op @ x) is da.Array
        op = VStack([op, op])
        y = op @ x
        for solve in [cgls, lsqr]:
            assert type(solve(op, y, niter=2)[0]) is da.Array
        assert type(fista(op, y, niter=2, alpha=0.1)[0]) is da.Array
        assert type(CG(op.H @ op).solve(op.H @ y, niter=2)[0]) is da.Array
        print("ok")
        """
    )


USER_MODULE = """
import numpy as np
import pylops
from pylops import LinearOperator
from pylops.utils.backend import get_array_module, inplace_set
from pylops.utils.decorators import reshaped

class Mine(LinearOperator):
    def __init__(self, n):
        super().__init__(dtype=np.dtype("f8"), shape=(n, n))

    def _matvec(self, x):
        ncp = get_array_module(x)
        y = ncp.zeros(self.shape[0], dtype=self.dtype)
        y = inplace_set(2 * x[:-1], y, slice(1, None))
        y[0] += x[-1]
        return y

    def _rmatvec(self, x):
        ncp = get_array_module(x)
        y = ncp.zeros(self.shape[1], dtype=self.dtype)
        y[:-1] = 2 * x[1:]
        y[-1] += x[0]
        return y

def check():
    import dask, dask.array as da
    def refuse(*args, **kwargs):
        raise AssertionError("an execution")
    x = da.arange(9.0, chunks=4)
    with dask.config.set(scheduler=refuse):
        y, z = Mine(9) @ x, Mine(9).H @ x
    assert type(y) is da.Array and type(z) is da.Array
    np.testing.assert_array_equal(y.compute(), Mine(9) @ np.arange(9.0))
    np.testing.assert_array_equal(z.compute(), Mine(9).H @ np.arange(9.0))
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import user_module; import pylops_dispatch",
        "import pylops_dispatch; import user_module",
        "import pylops_dispatch; pylops_dispatch.disable(); import user_module; "
        "pylops_dispatch.enable()",
        "import user_module; import pylops_dispatch, importlib; importlib.reload(user_module)",
        "import pylops_dispatch, user_module; pylops_dispatch.disable(); pylops_dispatch.enable()",
        "import pylops_dispatch, user_module, importlib; pylops_dispatch.disable(); "
        "importlib.reload(user_module); pylops_dispatch.enable()",
    ],
)
def test_users_module_that_bound_backend_functions(imports, tmp_path):
    (tmp_path / "user_module.py").write_text(USER_MODULE)
    run(imports + "\nuser_module.check()\nprint('ok')", tmp_path)


def test_users_script_that_bound_backend_functions(tmp_path):
    """Names bound in the main module itself, before the import."""
    run(USER_MODULE + "\nimport pylops_dispatch\ncheck()\nprint('ok')")
    run("import pylops_dispatch\n" + USER_MODULE + "\ncheck()\nprint('ok')")


@pytest.mark.parametrize("order", ["before", "after"])
def test_users_module_is_restored(order, tmp_path):
    (tmp_path / "user_module.py").write_text(USER_MODULE)
    imports = ["import user_module", "import pylops_dispatch"]
    imports = imports if order == "before" else imports[::-1]
    run(
        "import pylops.utils.backend as backend\n"
        "original = backend.get_array_module, backend.inplace_set\n"
        + "\n".join(imports)
        + textwrap.dedent(
            """
            pylops_dispatch.disable()
            assert backend.get_array_module is original[0]
            assert user_module.get_array_module is original[0]
            assert user_module.inplace_set is original[1]
            print("ok")
            """
        ),
        tmp_path,
    )


# ------------------------------------------------- packages built on PyLops


@pytest.mark.parametrize("order", ["before", "after"])
def test_pyproximal(order):
    imports = ["import pyproximal", "import pylops_dispatch"]
    imports = imports if order == "before" else imports[::-1]
    run(
        "import pylops.utils.backend as backend\n"
        "original = backend.get_array_module\n"
        + "\n".join(imports)
        + textwrap.dedent(
            """
            import sys
            import dask, dask.array as da, numpy as np
            import pyproximal.optimization.cls_primal as primal
            import pyproximal.projection.AffineSet

            bound = [
                (name, key)
                for name, module in list(sys.modules.items())
                if name.split(".")[0] == "pyproximal"
                for key, value in vars(module).items()
                if key == "get_array_module"
            ]
            assert len(bound) >= 3, bound
            for name, key in bound:
                module = getattr(sys.modules[name], key)(da.ones(3))
                assert module is not np, name
            pylops_dispatch.disable()
            for name, key in bound:
                assert getattr(sys.modules[name], key) is original, name
            pylops_dispatch.enable()
            for name, key in bound:
                assert getattr(sys.modules[name], key)(da.ones(3)) is not np, name
                assert getattr(sys.modules[name], key)(np.ones(3)) is np, name
            print("ok")
            """
        )
    )


LAZY_PENALTY = """
x = np.arange(-3.0, 4.0)
y = pyproximal.ETP(0.5, 1.0).prox(da.from_array(x, chunks=3), 1.0)
assert type(y) is da.Array
assert np.allclose(y.compute(), pyproximal.ETP(0.5, 1.0).prox(x, 1.0))
"""


@pytest.mark.parametrize("order", ["before", "after", "looked-for-before"])
def test_proximal_operators_take_dask_arrays_whenever_their_package_is_imported(order):
    imports = {
        "before": ["import pyproximal", "import pylops_dispatch"],
        "after": ["import pylops_dispatch", "import pyproximal"],
        "looked-for-before": [
            "import importlib.util, pylops_dispatch",
            "assert importlib.util.find_spec('pyproximal').name == 'pyproximal'",
            "import pyproximal",
        ],
    }[order]
    run(
        "import sys, dask.array as da, numpy as np\n"
        + "\n".join(imports)
        + LAZY_PENALTY
        + textwrap.dedent(
            """
            from pyproximal.optimization import palm
            inside = [palm.PALM]
            pylops_dispatch.disable()
            assert palm.PALM is not inside[0]
            assert not [f for f in sys.meta_path if "pylops_dispatch" in type(f).__module__]
            try:
                pyproximal.ETP(0.5, 1.0).prox(da.ones(3), 1.0)
            except ValueError:
                pass
            else:
                raise AssertionError("it is not as it was")
            pylops_dispatch.enable()
            """
        )
        + LAZY_PENALTY
        + "print('ok')"
    )


def test_package_imported_while_disabled():
    run(
        "import dask.array as da, numpy as np, pylops_dispatch\n"
        "with pylops_dispatch.disabled():\n"
        "    import pyproximal\n"
        "    before = vars(pyproximal.L1)['prox']\n"
        "assert vars(pyproximal.L1)['prox'] is not before\n" + LAZY_PENALTY + "print('ok')"
    )


def test_package_built_on_pylops_is_restored_by_identity():
    run(
        SNAPSHOT
        + textwrap.dedent(
            """
            before = snapshot("pyproximal")
            import pylops_dispatch
            inside = snapshot("pyproximal")
            assert differences(before, inside), "nothing was changed"
            pylops_dispatch.disable()
            left = differences(before, snapshot("pyproximal"))
            assert not left, left
            pylops_dispatch.enable()
            assert not differences(inside, snapshot("pyproximal"))
            pylops_dispatch.disable()
            left = differences(before, snapshot("pyproximal"))
            assert not left, left
            print("ok")
            """
        )
    )


# --------------------------------------------------------------- missing seams


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pylops.utils.backend", "inplace_add"),
        ("pylops.utils.backend", "inplace_set"),
        ("pylops.utils.backend", "get_array_module"),
    ],
)
def test_missing_seam_is_named(module, name):
    run(
        f"""
        import pylops
        import {module} as seam
        from pylops.linearoperator import LinearOperator
        del seam.{name}
        before = dict(vars(LinearOperator)), dict(vars(seam))
        try:
            import pylops_dispatch
        except ImportError as error:
            text = str(error)
            assert "{name}" in text, text
            assert "{module}" in text, text
            assert pylops.__version__ in text, text
            assert "2.8" in text, text
        else:
            raise SystemExit("imported")
        assert all(vars(LinearOperator)[k] is v for k, v in before[0].items())
        assert all(vars(seam)[k] is v for k, v in before[1].items())
        print("ok")
        """
    )


def test_missing_method_is_named():
    run(
        """
        import pylops
        del pylops.LinearOperator.rmatvec
        try:
            import pylops_dispatch
        except ImportError as error:
            assert "rmatvec" in str(error), error
        else:
            raise SystemExit("imported")
        print("ok")
        """
    )


# --------------------------------------------------------------- NumPy untouched


def outputs(entry):
    """Everything that this entry gives for NumPy."""
    results = []
    with build(entry) as op:
        shaped = nd(op)
        x, y = model(entry, op), data(entry, op)
        results.append(op @ x)
        results.append(op.matvec(x))
    if shaped:
        with build(entry) as op:
            results.append(op @ x.reshape(op.dims))
    if entry.adjoint:
        with build(entry) as op:
            results.append(adjoint(op, y))
        if entry.matmat:
            with build(entry) as op:
                results.append(op.matmat(model(entry, op, (2,))))
    return results


@functools.cache
def outputs_of_pylops(compiled):
    """The outputs of all such entries without this package: to switch takes its time."""
    with disabled():
        chosen = [entry for entry in CATALOGUE if is_compiled(entry.id) == compiled]
        return {entry.id: outputs(entry) for entry in chosen}


def varies_by_itself(entry, number):
    """Whether NumPy rounds by where arrays lie, as 2.0 does in complex products."""
    with disabled():
        runs = [outputs(entry) for _ in range(50)]  # all are kept, for the next to lie elsewhere
    return len({run[number].tobytes() for run in runs}) > 1


@pytest.mark.parametrize("entry", CATALOGUE, ids=case_id)
def test_numpy_results_are_bit_identical(entry):
    expected = outputs_of_pylops(is_compiled(entry.id))[entry.id]
    result = outputs(entry)
    assert len(result) == len(expected)
    for number, (one, other) in enumerate(zip(result, expected, strict=True)):
        assert type(one) is np.ndarray
        if "multithread" in entry.id:  # PyLops adds in the order of its threads
            assert_close(one, other)
        elif one.tobytes() == other.tobytes() or not varies_by_itself(entry, number):
            assert_bitwise(one, other)
        else:
            assert_close(one, other, rtol=1e-14)


@pytest.mark.parametrize("solver", ["cg", "cgls", "lsqr", "fista", "ista"])
def test_numpy_solves_are_bit_identical(solver):
    op = pylops.Diagonal(1 + rand(20) ** 2)
    y = rand(20, seed=1)
    kwargs = {"alpha": 0.05} if solver in ("fista", "ista") else {}

    def solve():
        return getattr(pylops, solver)(op, y, niter=8, **kwargs)

    with disabled():
        expected = solve()
    for one, other in zip(solve(), expected, strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)


def test_numpy_array_module_is_numpy_itself():
    assert get_array_module(np.ones(3)) is np
    assert get_array_module([1, 2]) is np


def test_sparse_and_matrix_inputs_of_numpy_users():
    import scipy.sparse

    op = pylops.FirstDerivative(8)
    columns = scipy.sparse.eye(8, format="csc")
    with disabled():
        expected = op.matmat(columns)
    assert_bitwise(op.matmat(columns), expected)
    assert_bitwise(op.tosparse().toarray(), op.todense())


def test_subclasses_of_numpy_arrays_stay_as_they_were():
    class Tagged(np.ndarray):
        pass

    x = rand(8).view(Tagged)
    op = pylops.Diagonal(np.ones(8))
    with disabled():
        expected = type(op @ x)
    assert type(op @ x) is expected


def test_every_module_of_pylops_imports_while_enabled():
    missing = []
    for info in pkgutil.walk_packages(pylops.__path__, "pylops."):
        try:
            importlib.import_module(info.name)
        except (ImportError, NameError) as error:  # needs torch, jax or cuda
            missing.append(str(error))
    assert not [text for text in missing if "pylops_dispatch" in text]
    assert to_dask(rand(3), 2).shape == (3,)


LATE = """
import numpy as np, dask.array as da, pylops, pylops_dispatch
from pylops_dispatch.operators import made_lazy

pylops.FirstDerivative(12) @ np.ones(12)
assert not made_lazy  # NumPy programs need no look at PyLops's operators

class Late(pylops.LinearOperator):
    def __init__(self, weights):
        super().__init__(dtype=np.dtype("f8"), dims=(12,), dimsd=(12,))
        self.weights = weights

    def _matvec(self, x):
        return np.convolve(x, self.weights, "same")

    _rmatvec = _matvec

pylops_dispatch.set_policy(whole_array="allow")
assert type(Late(da.ones(12)) @ np.ones(12)) is da.Array
assert type(Late(np.ones(12)) @ np.ones(12)) is np.ndarray
print("ok")
"""


def test_a_users_operator_that_gets_its_dask_arrays_last_is_lazy_for_numpy_vectors():
    run(LATE)
