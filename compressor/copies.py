"""A copy of somebody's module to compute on, and everything around it that a computation could disturb."""

import copy
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from compressor.errors import InputError
from compressor.weights import aliases


def copied(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a deep copy in eval mode, its floating numbers in `dtype`; what shared memory still does.

    Complex and integer buffers stay what they are. Raises InputError for a module that can not be copied.
    """
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # whatever a foreign module holds: locks, caches, non-leaf tensors
        raise InputError(
            f"{type(model).__name__} can not be copied ({first_line(error)}); remove what it caches, or hooks "
            "such as those of torch.nn.utils.prune and weight_norm, first"
        ) from error
    for name, first in aliases(model).items():
        owner, _, key = name.rpartition(".")
        source, _, origin = first.rpartition(".")
        module, other = twin.get_submodule(owner), twin.get_submodule(source)
        if key in module._parameters and origin in other._parameters:
            module._parameters[key] = other._parameters[origin]
    if dtype is not None:
        twin._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return twin.eval()


@contextmanager
def undisturbed(device: torch.device | None = None) -> Iterator[None]:
    """Put back the global generators of torch, numpy and Python; within, gradients are on and draws repeatable."""
    python, old = random.getstate(), np.random.get_state()
    cuda = device is not None and device.type == "cuda"
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([device] if cuda else []))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            random.seed(0)
            np.random.seed(0)
            torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed every CUDA device
            if cuda:
                torch.cuda.manual_seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(old)


def first_line(error: object) -> str:
    """Return the first line of what an error says, for a message of our own; its type where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def floating(outputs: object) -> list[Tensor]:
    """Return the floating tensors of what a network returns, however it nests them."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return [t for value in outputs for t in floating(value)] if isinstance(outputs, tuple | list) else []
