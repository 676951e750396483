"""PyTorch on the CPU with its sparse CSR products (MKL) in place of the dense ones.

Linear layers and every other product with a whole packed weight run as CSR; convolutions in one or two
dimensions as unfold in chunks, then CSR. Operators are caught at the dispatcher and weights known by their
memory, so functional code counts too. What stays dense is named, with the reason.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import unfold
from torch.utils._python_dispatch import TorchDispatchMode

from exporters.rounding import open_layers, outputs_of
from exporters.runtimes.session import AbsentError, Network, Session
from exporters.runtimes.torch_cpu import cpu

DENSE_ABOVE: Final = 0.5  # research on MKL's CSR, 1024 x 1024: it breaks even with dense at 0.1 to 0.3
CHUNK: Final = 1 << 24  # elements of unfolded columns at a time: 64 MiB


def start(network: Network) -> Session:
    """Return a session. Raises AbsentError without a module or a torch that multiplies CSR on the CPU."""
    module = network.module
    if module is None:
        raise AbsentError("no torch model was given")
    mode = _Sparse()
    for name, tensor in module.named_parameters():
        if tensor.ndim >= 2:
            mode.add(name, tensor.detach(), network.masks.get(name))
    if not _multiplies(torch.float32):
        raise AbsentError("this torch has no sparse CSR product on the CPU")

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad(), open_layers(), mode:
            return outputs_of(module(*inputs))

    def run_dense(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return outputs_of(module(*inputs))

    return Session(
        runtime="torch_sparse",
        version=torch.__version__,
        provider="torch sparse CSR",
        device=cpu(),
        threads=torch.get_num_threads(),
        settings=mode.describe,
        run=run,
        run_dense=run_dense,
    )


class _Sparse(TorchDispatchMode):
    """Runs products with sparse weights as CSR, and remembers which did."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: dict[int, tuple[str, Tensor, tuple[int, ...]]] = {}
        self.ran: dict[str, None] = {}
        self.dense: dict[str, str] = {}

    def add(self, name: str, weight: Tensor, mask: Tensor | None) -> None:
        """Take a weight as CSR, or note why not."""
        if mask is None:
            self.dense[name] = "not packed sparse"
            return
        density = float(mask.float().mean()) if mask.numel() else 0.0
        if density > DENSE_ABOVE:
            self.dense[name] = f"density {density:.2f}"
            return
        if not _multiplies(weight.dtype):
            self.dense[name] = f"no CSR product in {str(weight.dtype).removeprefix('torch.')}"
            return
        plain = weight.is_contiguous() and weight.numel() > 0
        self.dense[name] = "no linear or convolution with the whole weight" if plain else "not row-major"
        if plain:
            self.layers[weight.data_ptr()] = (name, _csr(weight.flatten(1)), tuple(weight.shape))

    def describe(self) -> str:
        """Say which layers ran sparse, and why the others did not."""
        left = [f"{name} ({why})" for name, why in self.dense.items() if name not in self.ran]
        return f"sparse: {', '.join(self.ran) or 'none'}; dense: {', '.join(left) or 'none'}"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not kwargs and name in _PRODUCTS:
            for position in _PRODUCTS[name]:
                layer = self.layers.get(args[position].data_ptr())
                if layer is not None:
                    result = _sparse(name, args, position, *layer[1:])
                    if isinstance(result, Tensor):
                        self.ran[layer[0]] = None
                        return result
                    self.dense[layer[0]] = result
        return func(*args, **(kwargs or {}))


# operator -> where a weight may stand
_PRODUCTS: Final = {"mm": (0, 1), "addmm": (1, 2), "convolution": (1,)}


def _sparse(
    name: str, args: Sequence[Any], position: int, csr: Tensor, shape: tuple[int, ...]
) -> Tensor | str:
    """Return the product computed with CSR, or the reason why it cannot be."""
    if name == "convolution":
        return _convolution(args, csr)
    weight, offset = args[position], position - (name == "addmm")
    if offset == 0:
        if tuple(weight.shape) != shape or not weight.is_contiguous():
            return "used in part"
        product = csr @ args[position + 1]
    else:
        if tuple(weight.shape) != shape[::-1] or not weight.t().is_contiguous():
            return "used in part or transposed"
        product = (csr @ args[position - 1].t()).t().contiguous()
    result: Tensor = product + args[0] if name == "addmm" else product
    return result


def _convolution(args: Sequence[Any], csr: Tensor) -> Tensor | str:
    inputs, weight, bias, *geometry, transposed, _, groups = args
    if transposed or groups != 1 or inputs.ndim not in (3, 4):
        return "transposed" if transposed else "grouped" if groups != 1 else "3-d"
    # One number stands for every dimension.
    stride, padding, dilation = ((*given, *given[-1:] * (inputs.ndim - 2 - len(given))) for given in geometry)
    if inputs.ndim == 3:
        flat = [[1, *stride], [0, *padding], [1, *dilation]]
        wide = _convolution([inputs.unsqueeze(2), weight.unsqueeze(2), bias, *flat, False, [0], 1], csr)
        return wide.squeeze(2) if isinstance(wide, Tensor) else wide
    kernel = weight.shape[2:]
    sizes = [
        (inputs.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    ]
    step = max(1, CHUNK // max(1, weight[0].numel() * math.prod(sizes)))
    parts = []
    for chunk in inputs.split(step):
        columns = (
            unfold(chunk, kernel, dilation, padding, stride).transpose(0, 1).reshape(weight[0].numel(), -1)
        )
        parts.append((csr @ columns).view(weight.shape[0], len(chunk), *sizes).transpose(0, 1))
    result = torch.cat(parts).contiguous()
    return result if bias is None else result + bias.view(-1, 1, 1)


def _multiplies(dtype: torch.dtype) -> bool:
    """Whether this torch has a CSR product in that type: MKL has none in float16 and bfloat16."""
    try:
        _csr(torch.eye(2, dtype=dtype)) @ torch.eye(2, dtype=dtype)
    except RuntimeError:
        return False
    return True


def _csr(matrix: Tensor) -> Tensor:
    """Return a matrix in CSR with 32-bit indices: MKL takes them as they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks)")
        sparse = matrix.to_sparse_csr()
        indices = sparse.crow_indices().int(), sparse.col_indices().int()
        return torch.sparse_csr_tensor(*indices, sparse.values(), size=matrix.shape, check_invariants=False)
