"""Optimizations that do not change results, and access to private names of torch.

No other module of softattn implements a backward pass or uses a private name of torch.
"""

from softattn.ops._torch import (
    backward_hooks,
    children,
    device_and_dtype,
    forward_hooks,
    forward_pre_hooks,
    functorch_is_active,
    is_compiled,
    is_exporting,
    is_persistent,
    outside_inference_mode,
    remove_hook,
    without_compiler,
)
from softattn.ops.backward import dot, with_low_memory_gradient

__all__ = [
    "backward_hooks",
    "children",
    "device_and_dtype",
    "dot",
    "forward_hooks",
    "forward_pre_hooks",
    "functorch_is_active",
    "is_compiled",
    "is_exporting",
    "is_persistent",
    "outside_inference_mode",
    "remove_hook",
    "with_low_memory_gradient",
    "without_compiler",
]
