"""Which parameters are prunable, masks as plain data, and shared tensors under one name (DESIGN §3)."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.errors import FormatError, InputError, unknown
from compressor.files import read_bytes, write_bytes

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class Mask(Mapping[str, Tensor]):
    """An immutable mapping from state-dict key to a bool tensor on the CPU, True = kept.

    It does not reference the module. Raises InputError for a value that is not a bool tensor.
    """

    __slots__ = ("_tensors",)

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or tensor.dtype != torch.bool:
                raise InputError(f'mask "{name}": not a bool tensor; True means kept')
        self._tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].clone()  # what is handed out may be changed, the mask may not

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Mask({len(self)} tensors, {self.kept} of {self.total} kept, density {self.density:.6g})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping) or set(self) != set(other):
            return NotImplemented if not isinstance(other, Mapping) else False
        return all(torch.equal(tensor, other[name].cpu()) for name, tensor in self._tensors.items())

    __hash__ = None  # type: ignore[assignment]

    @property
    def kept(self) -> int:
        """The number of kept weights."""
        return sum(int(tensor.sum()) for tensor in self._tensors.values())

    @property
    def total(self) -> int:
        """The number of weights that the mask covers."""
        return sum(tensor.numel() for tensor in self._tensors.values())

    @property
    def density(self) -> float:
        """Kept / total, counted; 1.0 for a mask over nothing."""
        return self.kept / self.total if self.total else 1.0

    def per_layer(self) -> dict[str, tuple[int, int]]:
        """Return {name: (kept, total)}."""
        return {name: (int(tensor.sum()), tensor.numel()) for name, tensor in self._tensors.items()}

    def apply_(self, module: nn.Module) -> None:
        """Set every pruned weight of the module to +0.0. Raises InputError if the mask does not fit."""
        with torch.no_grad():
            for name, parameter in fit(module, self).items():
                parameter.masked_fill_(~self._tensors[name].to(parameter.device), 0.0)

    def save(self, path: Path | str) -> None:
        """Write a plain safetensors file, one BOOL tensor per key. Raises HostError."""
        from safetensors.torch import save

        write_bytes(path, save({name: tensor.contiguous() for name, tensor in self._tensors.items()}))

    @classmethod
    def load(cls, path: Path | str) -> "Mask":
        """Read what `save` wrote. Raises InputError (unreadable, not bool) or FormatError (not safetensors)."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return cls(load(read_bytes(path)))
        except SafetensorError as error:
            raise FormatError(f"{path}: not a safetensors file ({error})") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def prunable(model: nn.Module, exclude: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """Return {state-dict key: weight} of all prunable weights, in module order, a shared weight once.

    Prunable: the weights of Linear, of convolutions (transposed too) and of MultiheadAttention; never biases,
    norms or embeddings, nor a weight that is shared with an embedding, nor one that is computed (weight_norm and
    other parametrisations), which is no parameter. `exclude`: shell patterns over keys.
    Raises InputError if a pattern matches nothing, a weight is not initialised or nothing is prunable.
    Source: DESIGN §3; papers/baselines.md §2.
    """
    wanted: dict[object, bool] = {}
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                wanted[_place(parameter)] = False
            elif is_weight(module, key):
                if isinstance(parameter, nn.parameter.UninitializedParameter):
                    raise InputError(
                        f"{type(module).__name__} has no shape yet; run one batch through the lazy module first"
                    )
                wanted.setdefault(_place(parameter), True)
    names: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, nn.parameter.UninitializedParameter) and wanted.pop(
            _place(parameter), False
        ):
            names[name] = parameter
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown("prunable weight in exclude", pattern, names)
    names = {n: p for n, p in names.items() if not any(fnmatchcase(n, pattern) for pattern in exclude)}
    if not names:
        raise InputError(
            "nothing is prunable: the network has no Linear, convolution or attention weight left"
        )
    return names


def is_weight(module: nn.Module, key: str) -> bool:
    """Say whether the parameter `key` of this very module is a weight that is prunable by default."""
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
        return key == "weight"
    return isinstance(module, nn.MultiheadAttention) and key in _ATTENTION


def aliases(source: nn.Module | Mapping[str, Tensor]) -> dict[str, str]:
    """Return {other state-dict key: first key} for every tensor that a module or state dict holds under several names.

    The same tensor is the same memory in the same shape, strides and dtype, however it came to be shared.
    """
    tensors = source.state_dict() if isinstance(source, nn.Module) else source
    first: dict[tuple[object, ...], str] = {}
    return {
        name: first[_place(tensor)]
        for name, tensor in tensors.items()
        if tensor.numel() and first.setdefault(_place(tensor), name) != name
    }


def _place(tensor: Tensor) -> tuple[object, ...]:
    start = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    return (*start, tensor.shape, tensor.stride(), tensor.dtype, tensor.device)


def fit(module: nn.Module, mask: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Return {name: parameter} for the names of the mask.

    Raises InputError for a name that the module lacks or another shape: a mask that half fits is a mistake.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, tensor in mask.items():
        if name not in parameters:
            raise unknown("weight in mask", name, parameters)
        if tensor.dtype != torch.bool:
            raise InputError(f'mask "{name}": not a bool tensor; True means kept')
        if tensor.shape != parameters[name].shape:
            raise InputError(
                f'mask "{name}": shape {tuple(tensor.shape)} does not fit the weight\'s {tuple(parameters[name].shape)}'
            )
    return {name: parameters[name] for name in mask}


def find_mask(source: nn.Module | Mapping[str, Tensor]) -> Mask:
    """Return the mask of the non-zero weights of a module or state dict (-0.0 counts as zero).

    Of a module its prunable weights are covered; a state dict does not say what is prunable, so every floating
    tensor of two or more dimensions is. NaN is not zero: it is kept.
    """
    if isinstance(source, nn.Module):
        tensors: Mapping[str, Tensor] = prunable(source)
    else:
        floating = {name: t for name, t in source.items() if t.is_floating_point() and t.dim() >= 2}
        tensors = {name: t for name, t in floating.items() if t.dtype is not torch.float8_e8m0fnu}  # has no 0
    return Mask({name: tensor.detach() != 0 for name, tensor in tensors.items()})


def refuse_nan(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise InputError that names the first tensor which holds a NaN or an infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.detach()).all()):
            raise InputError(f'{what} "{name}" holds NaN or infinity; it cannot be ranked')
