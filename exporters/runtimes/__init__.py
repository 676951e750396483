"""The menu of runtimes. Each module has one function, start(network) -> Session; see session.py."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from exporters.runtimes.session import Network, Session

# Modules, not functions: the menu can be read without importing torch or onnxruntime.
RUNTIMES: Final[Mapping[str, str]] = {
    "torch_cpu": "exporters.runtimes.torch_cpu",
    "torch_cuda": "exporters.runtimes.torch_cuda",
    "torch_sparse": "exporters.runtimes.torch_sparse",
    "ort_cpu": "exporters.runtimes.ort_cpu",
    "ort_cuda": "exporters.runtimes.ort_cuda",
}


def start(runtime: str, network: "Network") -> "Session":
    """Return a session of the runtime of that name. Raises AbsentError, ProviderError (session.py)."""
    session: Session = import_module(RUNTIMES[runtime]).start(network)
    return session
