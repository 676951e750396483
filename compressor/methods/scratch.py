"""The copy that a scoring method computes on, so that the caller's module stays the same bits (DESIGN §4)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from compressor.batches import Batch
from compressor.copies import copied, first_line, undisturbed
from compressor.errors import InputError, unknown
from compressor.weights import prunable, refuse_nan

Loss = Callable[[Any, Any], Tensor]
"""(output of the network, labels) -> 0-dim tensor."""
MODES: Final = ("train", "eval")
_BATCH_NORMS = nn.modules.batchnorm._NormBase


def cross_entropy(output: Any, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy on class indices; of several outputs (auxiliary heads) the first counts."""
    if not isinstance(output, Tensor | tuple | list):
        raise TypeError(f"the output is a {type(output).__name__}, which the default loss can not read")
    logits = output if isinstance(output, Tensor) else output[0]
    return nn.functional.cross_entropy(logits, labels)


@contextmanager
def scratch(
    model: nn.Module, exclude: Sequence[str], *, mode: str, dtype: torch.dtype | None = None
) -> Iterator[tuple[nn.Module, dict[str, nn.Parameter]]]:
    """Yield a copy of the module and its prunable weights, which alone ask for gradients.

    mode: "eval", or "train", in which batch and instance norms take the statistics of the batch and nothing else
    changes: dropout in any form would make scores random. dtype: what to compute in; None is the network's own, but
    float32 for the half types. Whatever random numbers the network draws are the same in every call, and the global
    generators are put back. Raises InputError for an unknown mode, nothing prunable, weights that are not finite and
    a module that can not be copied.
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    names = prunable(model, exclude)
    refuse_nan(names, "weight")
    device = next(model.parameters()).device
    half = {p.dtype for p in model.parameters()} & {torch.float16, torch.bfloat16}
    with undisturbed(device), _plain_kernels(model, device):
        probe = copied(model, dtype or (torch.float32 if half else None))
        for module in probe.modules():
            if isinstance(module, _BATCH_NORMS):
                module.train(mode == "train")
        parameters = dict(probe.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in names)
        yield probe, {name: parameters[name] for name in names}


@contextmanager
def _plain_kernels(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep off kernels that round to less or can not be derived: TF32, autocast, fused attention, cuDNN's RNNs."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            plain = not any(isinstance(module, nn.RNNBase) for module in model.modules())
            flags = torch.backends.cudnn.flags(enabled=plain, deterministic=True, allow_tf32=False)
            stack.enter_context(flags)
        yield


def losses(probe: nn.Module, batches: Sequence[Batch], loss: Loss) -> Iterator[Tensor]:
    """Yield the loss of every batch, on the device and in the type of the network.

    Raises InputError where the network does not run on a batch, the loss does not take it, or it is not finite.
    """
    like = _like(probe)
    for inputs, labels in batches:
        output = forward(probe, inputs)
        try:
            value = loss(output, _placed(labels, like))
        except Exception as error:
            raise InputError(
                f"the loss does not take the output and the labels of the data ({first_line(error)}); "
                "labels are class indices, or give loss="
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise InputError("the loss is not one number per batch; reduce it to its mean")
        if not bool(torch.isfinite(value.detach())):
            raise InputError("the loss of the data is not finite; are the inputs normalised as in training?")
        yield value.reshape(())


def forward(probe: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """Call the network on inputs of one batch. Raises InputError where it does not run on them."""
    like = _like(probe)
    try:
        return probe(*(_placed(x, like) for x in inputs))
    except Exception as error:  # whatever a foreign module raises in there
        raise InputError(f"{type(probe).__name__} does not run on the data ({first_line(error)})") from error


def gradients(
    value: Tensor, weights: Mapping[str, nn.Parameter], *, graph: bool = False
) -> list[Tensor | None]:
    """Return d value / d weight, None for a weight that is not used. graph: so that they can be derived again."""
    if not value.requires_grad:
        return [None] * len(weights)
    return list(torch.autograd.grad(value, list(weights.values()), create_graph=graph, allow_unused=True))


def summed_gradients(
    probe: nn.Module, weights: Mapping[str, nn.Parameter], batches: Sequence[Batch], loss: Loss
) -> dict[str, Tensor]:
    """Return the gradient of the loss, summed over the batches; 0 for a weight that is not used."""
    total: list[Tensor | None] = [None] * len(weights)
    for value in losses(probe, batches, loss):
        for place, gradient in enumerate(gradients(value, weights)):
            before = total[place]
            total[place] = gradient if before is None or gradient is None else before.add_(gradient)
    return filled(weights, total)


def filled(weights: Mapping[str, nn.Parameter], found: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Return found gradients by name, zeros where there is none."""
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient.detach()
        for (name, weight), gradient in zip(weights.items(), found, strict=True)
    }


def _like(probe: nn.Module) -> Tensor:
    return next(p for p in probe.parameters() if p.is_floating_point())


def _placed(value: Any, like: Tensor) -> Any:
    """Return a tensor on the device of `like`, in its type if it is a floating one; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.is_inference():
        value = value.clone()  # here, outside of inference mode, an ordinary tensor
    return value.to(like.device, like.dtype) if value.is_floating_point() else value.to(like.device)
