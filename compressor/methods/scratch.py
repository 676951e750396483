"""The copy that a scoring method computes on, so that the caller's module stays the same bits (DESIGN §4)."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from compressor.batches import Batch
from compressor.errors import InputError, unknown
from compressor.flow import first_line
from compressor.weights import prunable, refuse_nan

log = logging.getLogger(__name__)

Loss = Callable[[Any, Any], Tensor]
"""(output of the network, labels) -> 0-dim tensor."""
MODES: Final = ("train", "eval")
_DROPOUT = nn.modules.dropout._DropoutNd


def cross_entropy(output: Any, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy on class indices; of several outputs (auxiliary heads) the first counts."""
    logits = output if isinstance(output, Tensor) else output[0]
    return nn.functional.cross_entropy(logits, labels)


@contextmanager
def scratch(
    model: nn.Module, exclude: Sequence[str], *, mode: str, dtype: torch.dtype | None = None
) -> Iterator[tuple[nn.Module, dict[str, nn.Parameter]]]:
    """Yield a copy of the module and its prunable weights, which alone ask for gradients.

    mode: "train" (batch norm takes the statistics of the batch; dropout stays off, or scores would be random) or
    "eval". dtype: what to compute in; None is the network's own, but float32 for the half types.
    Whatever random numbers the network draws are the same in every call, and the global generators are put back.
    Raises InputError for an unknown mode, nothing prunable and weights that are not finite.
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    names = list(prunable(model, exclude))
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        probe = copy.deepcopy(model)
        parameters = dict(probe.named_parameters())
        kinds = {p.dtype for p in parameters.values()}
        if dtype is not None or kinds & {torch.float16, torch.bfloat16}:
            probe.to(dtype or torch.float32)
        probe.train(mode == "train")
        for module in probe.modules():
            if isinstance(module, _DROPOUT):
                module.eval()
        for parameter in parameters.values():
            parameter.requires_grad_(False)
        weights = {name: parameters[name] for name in names}
        for weight in weights.values():
            weight.requires_grad_(True)
        refuse_nan(weights, "weight")
        device = next(iter(weights.values())).device
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(0)
        # A fused attention kernel has no second derivative, and cuDNN would round to TF32.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(deterministic=True, allow_tf32=False))
        yield probe, weights


def losses(probe: nn.Module, batches: Sequence[Batch], loss: Loss) -> Iterator[Tensor]:
    """Yield the loss of every batch, on the device and in the type of the network.

    Raises InputError where the network does not run on a batch, the loss does not take it, or it is not finite.
    """
    like = next(probe.parameters())
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
    like = next(probe.parameters())
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
    """Return the gradient of the loss, summed over the batches; 0 for a weight that is not used, which is logged."""
    total: list[Tensor | None] = [None] * len(weights)
    for value in losses(probe, batches, loss):
        for place, gradient in enumerate(gradients(value, weights)):
            before = total[place]
            total[place] = gradient if before is None or gradient is None else before.add_(gradient)
    return filled(weights, total)


def filled(weights: Mapping[str, nn.Parameter], found: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Return found gradients by name, zeros where there is none; the layers without are logged."""
    unused = [name for name, gradient in zip(weights, found, strict=True) if gradient is None]
    if unused:
        log.warning("the output does not use %s: score 0", ", ".join(unused))
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient.detach()
        for (name, weight), gradient in zip(weights.items(), found, strict=True)
    }


def _placed(value: Any, like: Tensor) -> Any:
    """Return a tensor on the device of `like`, in its type if it is a floating one; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.to(like.device, like.dtype) if value.is_floating_point() else value.to(like.device)
