"""Names of implementations. Nothing is imported until it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from swav_spec.config import Execution
from swav_spec.contract import Implementation
from swav_spec.errors import InvalidInput, require

#: name -> (class, extra that installs its framework, module whose import tells whether it is there)
BUILT_IN = MappingProxyType(
    {
        "numpy": ("swav_spec.implementation:NumpyImplementation", "", "numpy"),
        "torch": ("swav_torch.implementation:TorchImplementation", "torch", "torch"),
        "jax": ("swav_jax.implementation:JaxImplementation", "jax", "jax"),
        "tensorflow": ("swav_tensorflow.implementation:TensorFlowImplementation", "tensorflow", "tensorflow"),
        "plain-torch": ("swav_plain_torch.implementation:PlainTorchImplementation", "torch", "torch"),
        "lightly": ("swav_plain_torch.lightly_modules:LightlyImplementation", "lightly", "lightly.loss"),
    }
)
#: Those that others are compared with: they train, but fulfil no more of the contract than that.
PEERS = frozenset({"plain-torch", "lightly"})


def load(name: str, execution: Execution | None = None) -> Implementation:
    """The implementation called `name`, made for an execution.

    Raises:
        InvalidInput: see `find`; or it does not offer that execution.
    """
    return find(name)(execution or Execution())


def find(name: str) -> Callable[..., Any]:
    """The class called `name`, or the one at "package.module:Class" for one that is not built in.

    Raises:
        InvalidInput: the name is unknown, its framework cannot be imported (says which extra installs it), or the
            class is not there.
    """
    target, extra, framework = BUILT_IN.get(name, (name, "", ""))
    known = ", ".join(BUILT_IN)
    require(":" in target, "implementation", name, f"one of {known}, or package.module:Class")
    module_name, _, class_name = target.partition(":")
    if framework:
        try:
            importlib.import_module(framework)
        except ImportError as error:
            raise InvalidInput(
                f"implementation = {name!r}: {framework} cannot be imported ({error}); "
                f"install it with: pip install 'swav-bench[{extra}]'"
            ) from error
        except (OSError, RuntimeError) as error:
            # What compiled packages raise when one was built for another release, or another device, than the next.
            raise InvalidInput(
                f"implementation = {name!r}: {framework} is installed, but cannot be imported ({error}); "
                f"packages that fit each other come into a new environment by: pip install 'swav-bench[{extra}]'"
            ) from error
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise InvalidInput(f"implementation = {name!r}: there is no module {module_name}") from error
    found: Callable[..., Any] | None = getattr(module, class_name, None)
    if not callable(found):
        raise InvalidInput(f"implementation = {name!r}: there is no class {class_name} in {module_name}")
    return found
