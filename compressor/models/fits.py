"""Whether a network and a data set go together: one try before anything is trained."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from compressor.errors import InputError

if TYPE_CHECKING:
    from compressor.data import Data

__all__ = ["check_fits"]


def check_fits(model: nn.Module, name: str, data: "Data") -> None:
    """Forward two test samples and see that the outputs can be trained on the labels.

    model: on the CPU; the global random state is untouched. Raises InputError, which names the network, if it
    has nothing to train, is not of the inputs' float type, does not run, gives anything but one tensor (N, C)
    of that type, or has fewer outputs than there are labels.
    """
    x, _ = data.test.take(torch.arange(min(2, len(data.test))))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"{name}: has nothing to train, no parameter requires grad; unfreeze some")
    for key, parameter in model.named_parameters():
        if parameter.dtype != x.dtype and parameter.is_floating_point():
            types = f"{key} is {_type(parameter)}, the inputs are {_type(x)}"
            raise InputError(f"{name}: {types}; return the network in {_type(x)}")
    outputs = _tried(model, name, x)
    if not isinstance(outputs, torch.Tensor):
        kind = type(outputs).__name__
        raise InputError(f"{name}: its forward gives {kind}; return one tensor of shape (batch, classes)")
    if outputs.dtype != x.dtype:
        raise InputError(f"{name}: its outputs are {_type(outputs)}; return {_type(x)}, as the inputs are")
    shape = tuple(outputs.shape)
    if len(shape) != 2 or shape[0] != len(x):
        raise InputError(
            f"{name}: {len(x)} inputs give outputs of shape {shape}; return ({len(x)}, classes), the batch first"
        )
    splits = (("training", data.train), ("validation", data.validation), ("test", data.test))
    for split, images in splits:
        if images is not None and int(images.y.max()) >= shape[1]:
            raise InputError(
                f"{name}: has {shape[1]} outputs, but {data.name} has the label {int(images.y.max())} in its "
                f"{split} set; return one output per class"
            )


def _tried(model: nn.Module, name: str, x: torch.Tensor) -> object:
    training = model.training
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return model.eval()(x)
    except Exception as error:  # whatever a foreign module raises in there
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise InputError(
            f"{name}: does not run on inputs of shape {tuple(x.shape)} ({reason}); forward takes one batch"
        ) from error
    finally:
        model.train(training)


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
