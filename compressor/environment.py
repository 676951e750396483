"""What a run ran on, for environment.json: versions, source, device and threads; no names, paths or times."""

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

import compressor
from compressor.optimizers import pick_device
from compressor.recipe import Recipe

_PACKAGES: Final = ("torch", "torchvision", "numpy", "onnx", "onnxscript", "onnxruntime", "safetensors")


def versions() -> dict[str, str]:
    """Return {package: version} of what the results depend on; a package that is not there is left out."""
    found = {"compressor": compressor.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def environment(recipe: Recipe) -> dict[str, Any]:
    """Return what environment.json holds: all that a second machine would have to share for the same bits."""
    device = pick_device(recipe.train.device)
    return {
        "versions": versions(),
        "source": _source(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": recipe.train.threads or torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "seed": recipe.seed,
    }


def peak_memory() -> int:
    """Return the highest resident set of this process in bytes."""
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _source() -> str:
    """Return the SHA-256 over our own source files: exact where a version number or a dirty flag is not."""
    digest = hashlib.sha256()
    root = Path(compressor.__file__).parent.parent
    for path in sorted([*root.glob("compressor/**/*.py"), *root.glob("exporters/**/*.py")]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
