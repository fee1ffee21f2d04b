"""PyLops's own operators and solvers on dask arrays: importing this is all it takes."""

from importlib.metadata import version

from pylops_dispatch.activation import disable, disabled, enable, is_enabled
from pylops_dispatch.capability import Capability, capability
from pylops_dispatch.checkpoint import checkpoint, resume
from pylops_dispatch.cluster import client
from pylops_dispatch.ledger import Execution, Ledger, ledger
from pylops_dispatch.planning import Plan
from pylops_dispatch.planning_solvers import SolverPlan, plan
from pylops_dispatch.policy import (
    ImplicitComputeWarning,
    NotDispatchedError,
    PerformanceWarning,
    set_policy,
)
from pylops_dispatch.rules import (
    Rule,
    alone,
    capabilities,
    compose,
    halo,
    parallel_sum,
    register_rule,
    whole,
    whole_axis,
)
from pylops_dispatch.suggesting import suggest_chunks
from pylops_dispatch.watching import plot_convergence, progress

__version__ = version("pylops-dispatch")

__all__ = [
    "Capability",
    "Execution",
    "ImplicitComputeWarning",
    "Ledger",
    "NotDispatchedError",
    "PerformanceWarning",
    "Plan",
    "Rule",
    "SolverPlan",
    "alone",
    "capabilities",
    "capability",
    "checkpoint",
    "client",
    "compose",
    "disable",
    "disabled",
    "enable",
    "halo",
    "is_enabled",
    "ledger",
    "parallel_sum",
    "plan",
    "plot_convergence",
    "progress",
    "register_rule",
    "resume",
    "set_policy",
    "suggest_chunks",
    "whole",
    "whole_axis",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


enable()
