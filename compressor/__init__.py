"""Make neural networks sparse and small, and ship them with proof.

The names of the public API resolve on first use, so that importing this package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from compressor.errors import (
        CompressorError as CompressorError,
    )
    from compressor.errors import (
        FormatError as FormatError,
    )
    from compressor.errors import (
        HostError as HostError,
    )
    from compressor.errors import (
        InputError as InputError,
    )
    from compressor.errors import (
        VerificationError as VerificationError,
    )
    from compressor.foreign import import_file as import_file
    from compressor.held import hold as hold
    from compressor.levels import (
        centroids as centroids,
    )
    from compressor.levels import (
        load_start as load_start,
    )
    from compressor.levels import (
        save_start as save_start,
    )
    from compressor.levels import (
        to_levels as to_levels,
    )
    from compressor.methods import prune as prune
    from compressor.methods.asni import asni as asni
    from compressor.methods.edge_popup import edge_popup as edge_popup
    from compressor.packed import load as load
    from compressor.packed import pack as pack
    from compressor.packed import sizes as sizes
    from compressor.packed import unpack as unpack
    from compressor.pipeline import run as run
    from compressor.transforms import fold_dead as fold_dead
    from compressor.transforms import order_units as order_units
    from compressor.two_level import tied as tied
    from compressor.weights import Mask as Mask
    from compressor.weights import find_mask as find_mask
    from compressor.weights import prunable as prunable

__version__: Final = "0.1.0"

_HOME: Final = {
    "CompressorError": "errors",
    "FormatError": "errors",
    "HostError": "errors",
    "InputError": "errors",
    "Mask": "weights",
    "VerificationError": "errors",
    "asni": "methods.asni",
    "centroids": "levels",
    "edge_popup": "methods.edge_popup",
    "find_mask": "weights",
    "fold_dead": "transforms",
    "hold": "held",
    "import_file": "foreign",
    "load": "packed",
    "load_start": "levels",
    "order_units": "transforms",
    "pack": "packed",
    "prunable": "weights",
    "prune": "methods",
    "run": "pipeline",
    "save_start": "levels",
    "sizes": "packed",
    "tied": "two_level",
    "to_levels": "levels",
    "unpack": "packed",
}
__all__ = [
    "CompressorError",
    "FormatError",
    "HostError",
    "InputError",
    "Mask",
    "VerificationError",
    "__version__",
    "asni",
    "centroids",
    "edge_popup",
    "find_mask",
    "fold_dead",
    "hold",
    "import_file",
    "load",
    "load_start",
    "order_units",
    "pack",
    "prunable",
    "prune",
    "run",
    "save_start",
    "sizes",
    "tied",
    "to_levels",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compressor' has no attribute {name!r}")
    return getattr(import_module(f"compressor.{_HOME[name]}"), name)
