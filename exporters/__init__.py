"""Everything that leaves PyTorch: ONNX files, the runtimes they meet, and the proof that they are faithful."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporters.onnx import export
    from exporters.verdict import Verdict
    from exporters.verify import verify

__all__ = ["Verdict", "export", "verify"]

_HOMES = {"export": "exporters.onnx", "verify": "exporters.verify", "Verdict": "exporters.verdict"}


def __getattr__(name: str) -> Any:
    """Import on first use: `import exporters` alone loads neither torch nor onnx."""
    if name not in _HOMES:
        raise AttributeError(f"module 'exporters' has no attribute '{name}'")
    home = import_module(_HOMES[name])
    # The import has bound the submodule verify.py under this very name: put the function there.
    globals()[name] = getattr(home, name)
    return globals()[name]
