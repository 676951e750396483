"""Sigma: the rounding noise that a float32 run of a network must have, and its float64 reference.

Source: Monte-Carlo arithmetic (Parker 1997) on the statistical error model of Higham and Mary 2019. A sum of
m products in unknown order and grouping has an error of variance about (u^2/3)(m/2) sum((w x)^2), u = 2^-24;
any other operation rounds once, with relative deviation u/sqrt(3). The float64 reference is run again and
again with noise of just that size added behind every ATen operator; the spread of the outputs is sigma.
Operators are caught at the dispatcher, not at modules: functional code and attention are seen too.
Measured (torch and onnxruntime, float32, dense and 95 % sparse): 1.1 to 3.5 sigma; bfloat16: thousands.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

UNIT: Final = {
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
    torch.float64: 2.0**-53,
}
RUNS: Final = 8
DEGREES: Final = 64  # of freedom behind every sigma: its own error is then about 9 %
TINY: Final = 2.0**-126  # below it float32 loses relative precision, and some runtimes flush to zero

PRODUCTS: Final = frozenset({"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "_trilinear"})
SUMS: Final = frozenset({"sum", "nansum"})
MEANS: Final = frozenset(
    {"mean", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "_adaptive_avg_pool2d"}
    | {"_adaptive_avg_pool3d"}
)
NORMS: Final = frozenset(
    {"native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit"}
    | {"native_layer_norm", "native_group_norm", "cudnn_batch_norm"}
)
# Runtimes compute these as 0.5 + an odd function: their error is relative to the gate's 0.5, not to the result.
GATES: Final = frozenset({"sigmoid", "hardsigmoid"})
GATED: Final = frozenset({"silu", "hardswish", "gelu"})
# These move, choose or copy numbers and round nothing.
EXACT: Final = frozenset(
    """abs amax amin argmax as_strided cat clamp clamp_max clamp_min clone constant_pad_nd copy copysign _copy_from detach
    embedding empty empty_like expand_copy fill flip full full_like gather hardtanh index index_put index_select
    isnan lift_fresh lift_fresh_copy masked_fill max maximum max_pool2d_with_indices max_pool3d_with_indices
    max_unpool2d min minimum native_dropout neg new_empty new_full new_ones new_zeros one_hot ones ones_like
    pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d relu repeat replication_pad2d roll
    scalar_tensor scatter select_scatter slice_scatter sort stack _to_copy topk tril triu unsafe_split
    unsafe_split_with_sizes _unsafe_view upsample_nearest2d where zero zeros zeros_like arange sign floor ceil
    round trunc channel_shuffle native_channel_shuffle _adaptive_max_pool2d adaptive_max_pool2d""".split()
)


class Reference:
    """A float64 twin of a module on the CPU, in evaluation mode; the given module is not touched.

    Whatever the code of the module casts to a smaller float is kept in float64.
    """

    def __init__(self, module: nn.Module) -> None:
        import copy

        self.unit = _unit(module)
        self.module = copy.deepcopy(module).cpu().double().eval()
        tensors = [*self.module.parameters(), *self.module.buffers()]
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of one batch, flattened to a list, in float64."""
        with _plain(), _Float64():
            return self._outputs(inputs)

    def _outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [output.double() for output in outputs_of(self.module(*_lifted(tuple(inputs))))]

    def sigma(self, inputs: Sequence[Tensor], clean: Sequence[Tensor], *, seed: int = 0) -> list[Tensor]:
        """Return, per output tensor, the largest deviation in each sample's outputs: float64, shape (N,).

        clean: what `run` returned for the same inputs. An output that has no batch dimension has one sample.
        Own estimates have one degree of freedom per run and are never below the pooled one of all samples.
        """
        count = inputs[0].shape[0]
        runs = max(RUNS, math.ceil(DEGREES / count))
        generator = torch.Generator().manual_seed(seed)
        squares = [torch.zeros_like(samples_of(output, count)) for output in clean]
        for _ in range(runs):
            with _plain(), _Rounded(self.unit, self._weights, generator):
                noisy = self._outputs(inputs)
            for total, output, exact in zip(squares, noisy, clean, strict=True):
                total += samples_of(output - exact, count).nan_to_num().square()
        own = [(total / runs).amax(dim=1).sqrt() for total in squares]
        return [torch.maximum(deviation, deviation.square().mean().sqrt()) for deviation in own]


def samples_of(output: Tensor, count: int) -> Tensor:
    """Return an output as (count, values); one whose first dimension is not the batch as (1, values)."""
    rows = count if output.ndim and output.shape[0] == count else 1
    return output.reshape(rows, -1) if output.numel() else output.new_zeros(rows, 1)


def outputs_of(result: Any) -> list[Tensor]:
    """Return the tensors of a module's result, in order, whatever they are nested in."""
    return [leaf.detach() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def _unit(module: nn.Module) -> float:
    """Return the unit roundoff of the narrowest float among the parameters."""
    return max((UNIT[p.dtype] for p in module.parameters() if p.dtype in UNIT), default=UNIT[torch.float32])


@contextmanager
def _plain() -> Iterator[None]:
    """Take fused kernels apart, so that every rounding operator is seen. Restores the switch it touches."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _lifted(tree: Any) -> Any:
    """Return the same nest with float64 for every smaller float, in tensors and in dtype arguments."""

    def lift(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf.double()
        return torch.float64 if isinstance(leaf, torch.dtype) and leaf in UNIT else leaf

    return tree_map(lift, tree)


class _Float64(TorchDispatchMode):
    """Runs every operator in float64."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = _lifted(args), _lifted(kwargs or {})
        # A view must stay one, and an in-place result must stay the argument: only fresh results are lifted.
        fresh = all(value.alias_info is None for value in func._schema.returns)
        out = func(*args, **kwargs)
        self.add_noise(func, args, kwargs, out)
        return _lifted(out) if fresh else out

    def add_noise(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Do nothing: this is the reference."""


class _Rounded(_Float64):
    """Adds to every result the noise that float32 would have left there."""

    def __init__(self, unit: float, weights: set[int], generator: torch.Generator) -> None:
        super().__init__()
        self.unit, self.weights, self.generator = unit, weights, generator

    def add_noise(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Perturb the first result in place; views, copies and integers are exact."""
        result = out[0] if isinstance(out, tuple | list) and out else out
        name = func.overloadpacket.__name__
        plain = name.rstrip("_") if not name.endswith("__") else name
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not isinstance(result, Tensor) or result.dtype != torch.float64 or view or plain in EXACT:
            return
        size = self._size(plain, func, args, kwargs, out).sqrt_().mul_(self.unit / math.sqrt(3))
        noise = torch.randn(result.shape, generator=self.generator)
        # An exact 0 stays one: code may compare with it.
        result.add_(size.add_((size > 0) * TINY).mul_(noise))

    def _size(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Tensor:
        """Return the variance of the noise in units of u^2/3: the squares behind each result."""
        result = out[0] if isinstance(out, tuple | list) else out
        if name == "convolution":
            return _convolution_squares(func, args, self._ones)
        if name in PRODUCTS:
            squared = {key: value * value for key, value in kwargs.items()}
            squares = func(*_over(args, torch.square), **squared)
            return squares.mul_(func(*_over(args, self._ones), **squared).add_(1).div_(2))
        if name in SUMS:
            return func(args[0].square(), *args[1:], **kwargs).mul_(
                args[0].numel() / max(1, result.numel()) / 2 + 1
            )
        if name == "cumsum":
            return func(args[0].square(), *args[1:], **kwargs).mul_(_length(args) / 2 + 1)
        if name in MEANS:
            return func(args[0].square(), *args[1:], **kwargs)
        if name in NORMS:
            return _norm_squares(name, args, out)
        if name == "_softmax":  # exp(x - max): the difference is rounded before it is raised
            return result.square() * result.clamp(min=TINY).log_().square_().add_(2)
        if name in GATES:
            return result.abs().clamp_(min=0.5).square_()
        if name in GATED and func._schema.returns[0].alias_info is None:
            return torch.maximum(result.abs(), args[0].abs() / 2).square_()
        return result.square()

    def _ones(self, operand: Tensor) -> Tensor:
        """Return 1 where the operand takes part in a product: pruned weights do not."""
        if operand.untyped_storage().data_ptr() in self.weights:
            return (operand != 0).to(operand.dtype)
        return torch.ones_like(operand)


def _over(args: Sequence[Any], change: Callable[[Tensor], Tensor]) -> list[Any]:
    return [change(value) if isinstance(value, Tensor) else value for value in args]


def _length(args: Sequence[Any]) -> int:
    """Return how many terms a cumulative sum has at most."""
    return int(args[0].shape[args[1]]) if args[0].ndim else 1


def _convolution_squares(func: Any, args: Sequence[Any], ones: Callable[[Tensor], Tensor]) -> Tensor:
    """Return (m/2)(W^2 x^2 + b^2) of a convolution.

    In float32, scaled so that nothing overflows: a variance needs no more, and float64 costs five times that.
    """
    inputs, weight, bias, *rest = args
    scales = [float(value.abs().amax()) if value.numel() else 0.0 for value in (inputs, weight)]
    scaled = [(v / (s or 1)).square_().float() for v, s in zip((inputs, weight), scales, strict=True)]
    squares = func(*scaled, None, *rest).double().mul_((scales[0] * scales[1]) ** 2)
    if bias is not None:
        squares += bias.square().reshape(-1, *[1] * (squares.ndim - 2))
    # All samples have the same number of products: one is counted.
    products = func(ones(inputs[:1]).float(), ones(weight).float(), None, *rest).double()
    return squares.mul_(products.add_(1).div_(2))


def _norm_squares(name: str, args: Sequence[Any], out: Sequence[Tensor]) -> Tensor:
    """Return the squares behind y = (x - mean) r w + b.

    Where mean is large beside the spread, x r w and mean r w cancel, or r itself is off by its square.
    """
    result, inputs, fixed = out[0], args[0], False
    if name == "native_layer_norm":
        _, shape, weight, bias, _ = args
        mean, rstd = out[1], out[2]
        broadcast = list(shape)
    elif name == "native_group_norm":
        _, weight, bias, batch, channels, _, groups, _ = args
        spread = [batch, groups, 1]
        mean, rstd = (
            value.reshape(spread)
            .expand(batch, groups, channels // groups)
            .reshape(batch, channels, *[1] * (inputs.ndim - 2))
            for value in out[1:3]
        )
        broadcast = [channels] + [1] * (inputs.ndim - 2)
    else:
        weight, bias = args[1], args[2]
        fixed = name == "_native_batch_norm_legit_no_training" or (
            name == "native_batch_norm" and not args[5]
        )
        mean, rstd = (args[3], (args[4] + args[-1]).rsqrt()) if fixed else (out[1], out[2])
        broadcast = [-1] + [1] * (inputs.ndim - 2)
        mean, rstd = mean.reshape(broadcast), rstd.reshape(broadcast)
    w = result.new_ones(()) if weight is None else weight.reshape(broadcast)
    b = result.new_zeros(()) if bias is None else bias.reshape(broadcast)
    off = (mean * rstd).square_()
    squares = result.square() + b.square() + w.square() * off
    return squares if fixed else squares.add_(((result - b) * (1 + off) / 2).square_())
