"""PyLops's own operators and solvers on dask arrays: importing this is all it takes."""

from pylops_dispatch.activation import disable, disabled, enable, is_enabled
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

__version__ = "0.1.0"

__all__ = [
    "ImplicitComputeWarning",
    "NotDispatchedError",
    "PerformanceWarning",
    "Rule",
    "alone",
    "capabilities",
    "compose",
    "disable",
    "disabled",
    "enable",
    "halo",
    "is_enabled",
    "parallel_sum",
    "register_rule",
    "set_policy",
    "whole",
    "whole_axis",
]

enable()
