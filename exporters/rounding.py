"""Sigma: the rounding noise that a float32 run of a network must have, and its float64 reference.

Source: Monte-Carlo arithmetic (Parker 1997) on the statistical error model of Higham and Mary 2019. A sum of
m products in unknown order has an error of variance about (u^2/3)(m/2) sum((w x)^2), u = 2^-24; any other
operation rounds once, with relative deviation u/sqrt(3) (noise.py, operator by operator). The float64
reference is run again and again with noise of just that size behind every ATen operator; the spread of the
outputs is sigma. Operators are caught at the dispatcher, not at modules: functional code and attention too.
Measured (torch and onnxruntime, float32, dense and 95 % sparse): 1.1 to 3.5 sigma; bfloat16: thousands.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from exporters.noise import noise, rounds

UNIT: Final = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
RUNS: Final = 8
DEGREES: Final = 64  # of freedom behind every sigma: its own error is then about 9 %


class Reference:
    """A float64 twin of a module on the CPU, in evaluation mode; the given module is not touched.

    Whatever the code of the module casts to a smaller float stays in float64.
    """

    def __init__(self, module: nn.Module) -> None:
        floats = [UNIT[p.dtype] for p in module.parameters() if p.dtype in UNIT]
        self.unit = max(floats, default=UNIT[torch.float32])
        self.module = copy.deepcopy(module).cpu().double().eval()
        tensors = [*self.module.parameters(), *self.module.buffers()]
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of one batch, flattened to a list, in float64."""
        return self._outputs(inputs, _Float64())

    def sigma(self, inputs: Sequence[Tensor], clean: Sequence[Tensor], *, seed: int = 0) -> list[Tensor]:
        """Return, per output, the largest deviation in each sample's values: float64, shape (N,).

        clean: what `run` returned for the same inputs. An output without a batch axis counts as one sample.
        A sample's own estimate has one degree of freedom per run; it is never below the pooled one of all.
        """
        count = len(inputs[0])
        runs = max(RUNS, math.ceil(DEGREES / count))
        generator = torch.Generator().manual_seed(seed)
        sums = [torch.zeros_like(samples_of(output, count)) for output in clean]
        for _ in range(runs):
            noisy = self._outputs(inputs, _Rounded(self.unit, self._weights, generator))
            for i, (output, exact) in enumerate(zip(noisy, clean, strict=True)):
                sums[i] += samples_of(output - exact, count).nan_to_num().square()
        own = [(total / runs).amax(dim=1).sqrt() for total in sums]
        return [torch.maximum(deviation, deviation.square().mean().sqrt()) for deviation in own]

    def _outputs(self, inputs: Sequence[Tensor], mode: "_Float64") -> list[Tensor]:
        with _plain(), mode:
            return [output.double() for output in outputs_of(self.module(*_lifted(tuple(inputs))))]


def samples_of(output: Tensor, count: int) -> Tensor:
    """Return an output as (count, values); one whose first axis is not the batch as (1, values)."""
    rows = count if output.ndim and len(output) == count else 1
    return output.reshape(rows, -1) if output.numel() else output.new_zeros(rows, 1)


def outputs_of(result: Any) -> list[Tensor]:
    """Return the tensors of a module's result, in order, whatever they are nested in."""
    return [leaf.detach() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


@contextmanager
def open_layers() -> Iterator[None]:
    """Keep torch from running whole attention layers as one operator. Restores the switch."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _plain() -> Iterator[None]:
    """Take fused kernels apart, so that every rounding operator is seen; no autocast of the caller's."""
    with torch.no_grad(), open_layers(), sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", enabled=False):
        yield


def _lifted(tree: Any) -> Any:
    """Return the same nest with float64 for every smaller float, in tensors and in dtype arguments."""

    def lift(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf.double()
        return torch.float64 if isinstance(leaf, torch.dtype) and leaf in UNIT else leaf

    return tree_map(lift, tree)


class _Float64(TorchDispatchMode):
    """Runs every operator in float64."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = _lifted(args), _lifted(kwargs or {})
        out = func(*args, **kwargs)
        self.disturb(func, args, kwargs, out)
        # A view must stay one, and an in-place result must stay the argument: only fresh results are lifted.
        fresh = all(value.alias_info is None for value in func._schema.returns)
        return _lifted(out) if fresh else out

    def disturb(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Do nothing: this is the reference."""


class _Rounded(_Float64):
    """Adds to every result the noise that a float run would have left there."""

    def __init__(self, unit: float, weights: set[int], generator: torch.Generator) -> None:
        super().__init__()
        self.unit, self.weights, self.generator = unit, weights, generator

    def disturb(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Perturb the first result in place, if it was rounded."""
        result = out[0] if isinstance(out, tuple | list) and out else out
        if not isinstance(result, Tensor) or result.dtype != torch.float64 or not rounds(func):
            return
        found = noise(func, args, kwargs, out, self._ones, self.generator)
        result.add_(found, alpha=self.unit / math.sqrt(3))

    def _ones(self, operand: Tensor) -> Tensor:
        if operand.untyped_storage().data_ptr() in self.weights:
            return (operand != 0).to(operand.dtype)
        return torch.ones_like(operand)
