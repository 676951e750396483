"""Weights from files: packed files, safetensors, and torch checkpoints; nothing in them is ever run."""

import argparse
import pickletools
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.serialization import safe_globals

from compressor.errors import InputError
from compressor.files import kind_of, read_bytes
from compressor.plain import short_names

# Where training scripts put the state dict inside a checkpoint, in the order in which they are looked for.
NESTED: Final = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
)
# What training scripts leave beside the weights (a best accuracy, their arguments) and what runs no code.
NUMPY_SCALAR: Final[Callable[..., Any]] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
HARMLESS: Final[list[Callable[..., Any] | tuple[Callable[..., Any], str]]] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
]
SHOWN: Final = 3


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Fill a network from a file: all of it, or nothing if anything does not fit.

    Raises InputError for missing, unexpected and differently shaped tensors, and for NaN or infinity in them.
    """
    state = state_of(path)
    own = model.state_dict(keep_vars=True)
    present = {id(own[name]) for name in state if name in own}
    # A shared tensor may go by another of its names, and files from before torch 0.4.1 count no batches.
    missing = [
        name
        for name, tensor in own.items()
        if name not in state and id(tensor) not in present and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        parts = [
            f"{what} {_some(names)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise InputError(f"{path}: is not of this network: {'; '.join(parts)}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)} in the file, {tuple(own[name].shape)} in the network"
            raise InputError(f"{path}: {name} has shape {shapes}")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{path}: {name} holds NaN or infinity")
    model.load_state_dict(state, strict=False)


def state_of(path: Path | str) -> dict[str, torch.Tensor]:
    """Return the state dict in a packed file, a safetensors file or a torch checkpoint, whatever its suffix.

    One inside a checkpoint dictionary is found; the prefixes of DataParallel and torch.compile are dropped.
    Raises InputError for anything else, FormatError for a damaged packed file.
    """
    if kind_of(path) == "safetensors":
        return _safetensors(Path(path))
    return plain_names(dictionary(Path(path), unpickled(Path(path))))


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "compressor":
                return plain_names({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged, not whole as a safetensors file ({error})") from error
    from compressor.packed import unpack

    return unpack(path)


def unpickled(path: Path) -> Any:
    """Return what a torch checkpoint holds; nothing in it is run. Raises InputError."""
    try:
        with safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about pickle protocols and TorchScript: what fails is told below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if wanted := found[1] if found else _would_run(read_bytes(path)):
            raise InputError(
                f"{path}: wants to run {wanted} when it is opened; give a file of model.state_dict() alone"
            ) from error
        raise InputError(
            f"{path}: neither safetensors nor a torch checkpoint, or damaged; give one of model.state_dict()"
        ) from error


def _would_run(pickled: bytes) -> str:
    """Return the first function that a plain pickle names and that is not of torch or numpy, or ""."""
    texts = [""]
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            name = ""
            if operation.name == "GLOBAL":
                name = str(argument).replace(" ", ".")
            elif operation.name == "STACK_GLOBAL":
                name = ".".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)
            if name and name.partition(".")[0] not in ("torch", "numpy", "collections"):
                return name
    except (ValueError, EOFError, LookupError, OverflowError):
        pass  # no pickle at all: the caller says so
    return ""


def dictionary(path: Path, found: Any) -> Mapping[str, torch.Tensor]:
    """Return the state dict in what a checkpoint holds, at most two dictionaries down. Raises InputError."""
    for _ in range(3):
        if not isinstance(found, Mapping):
            break
        if found and all(isinstance(value, torch.Tensor) for value in found.values()):
            if odd := [name for name in found if not isinstance(name, str)]:
                raise InputError(f"{path}: has a tensor of the name {odd[0]!r}; names are text")
            return found
        inner = next((found[key] for key in NESTED if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    raise InputError(f"{path}: holds no state dict; one is expected at the top or under {', '.join(NESTED)}")


def plain_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors without the prefixes of DataParallel and torch.compile, where all names have them."""
    return dict(zip(short_names(list(state)), (one.detach() for one in state.values()), strict=True))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
