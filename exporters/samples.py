"""What the network is verified on: the user's data cut into chunks, or random inputs of the graph's shape."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from torch import Tensor

from compressor.errors import InputError
from exporters.graph import Graph

Inputs = tuple[Tensor, ...]
Batch = tuple[Inputs, Tensor | None]

FIRST: Final = 16  # samples that sigma is measured on; also the chunk of the float64 reference
CHUNK: Final = 64

_DTYPES: Final = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.DOUBLE: torch.float64,
}


def chunks(data: Any, referenced: int | None, dtype: torch.dtype) -> Iterator[Batch]:
    """Yield the data in order as (inputs, labels or None), on the CPU, floats in `dtype`.

    data: (x, y) or an iterable of such batches; x a tensor or a tuple of them. The first chunk has FIRST
    samples, and `referenced` is where a chunk ends (None: there is no such place).
    Raises InputError for data of another form, without samples, or with NaN or infinity in it.
    """
    held: Batch | None = None
    seen = 0
    for raw in [data] if _is_batch(data) else _batches(data):
        batch = _clean(raw, dtype)
        if held is not None and not _joinable(held, batch):
            yield held
            seen, held = seen + _count(held), None
        held = batch if held is None else _joined(held, batch)
        while _count(held) >= (size := _size(seen, referenced)):
            yield _cut(held, slice(0, size))
            seen, held = seen + size, _cut(held, slice(size, None))
    if held is not None and _count(held):
        seen += _count(held)
        yield held
    if not seen:
        raise InputError("the data hold no sample; give (x, y) or batches of it")


def random_inputs(path: Path, graph: Graph) -> Inputs | str:
    """Return FIRST samples of normal numbers, the same every time, or why there are none."""
    types = {value.name: value.type.tensor_type.elem_type for value in onnx.load_model(str(path)).graph.input}
    generator = torch.Generator().manual_seed(0)
    made = []
    for name, shape in graph.inputs.items():
        if types.get(name) not in _DTYPES:
            return f'input "{name}" is not a float; give data'
        if not shape or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
            return f'input "{name}" has the shape {list(shape)}, not fixed but for the batch; give data'
        sizes = [size for size in shape[1:] if isinstance(size, int)]
        count = shape[0] if isinstance(shape[0], int) else FIRST
        made.append(torch.randn([count, *sizes], generator=generator).to(_DTYPES[types[name]]))
    return tuple(made) if made else "the graph has no input"


def example(path: Path) -> Inputs:
    """Return zeros of the shapes and types that a file declares, 2 where an axis is open."""
    made = []
    for value in onnx.load_model(str(path)).graph.input:
        kind = value.type.tensor_type
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        dtype = getattr(torch, {"float": "float32", "double": "float64"}.get(name, name))
        made.append(torch.zeros([dim.dim_value or 2 for dim in kind.shape.dim], dtype=dtype))
    return tuple(made)


def _size(seen: int, referenced: int | None) -> int:
    if not seen:
        return min(FIRST, referenced or FIRST)
    if referenced is None or seen < referenced:
        return FIRST if referenced is None else min(FIRST, referenced - seen)
    return CHUNK


def _is_batch(data: Any) -> bool:
    """Whether this is one (x, y): y is an array, x an array or a tuple of them."""
    if not isinstance(data, list | tuple) or len(data) != 2:
        return False
    x, y = data
    return (y is None or _is_array(y)) and (
        _is_array(x) or (isinstance(x, list | tuple) and all(map(_is_array, x)))
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or hasattr(value, "__array__")


def _batches(data: Any) -> Iterable[Any]:
    if not isinstance(data, Iterable) or _is_array(data):
        raise InputError(f"data of {type(data).__name__} cannot be used; give (x, y) or batches of it")
    return data


def _clean(raw: Any, dtype: torch.dtype) -> Batch:
    if not _is_batch(raw):
        raise InputError(f"a batch of {type(raw).__name__} cannot be used; give (x, y), arrays both")
    x, y = raw
    inputs = tuple(_tensor(one, dtype) for one in (x if isinstance(x, list | tuple) else (x,)))
    count = len(inputs[0]) if inputs and inputs[0].ndim else -1
    if any(not one.ndim or len(one) != count for one in inputs) or count < 0:
        raise InputError(
            f"inputs of shapes {[list(one.shape) for one in inputs]}; the first axis is the sample"
        )
    for one in inputs:
        if one.is_floating_point() and not bool(torch.isfinite(one).all()):
            raise InputError("the data hold NaN or infinity; clean them first")
    labels = None if y is None else torch.as_tensor(y).detach().cpu()
    if labels is not None and (not labels.ndim or len(labels) != count):
        raise InputError(f"{count} samples have labels of shape {list(labels.shape)}; give one for each")
    return inputs, labels


def _tensor(value: Any, dtype: torch.dtype) -> Tensor:
    tensor = torch.as_tensor(value).detach().cpu().contiguous()
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _count(batch: Batch) -> int:
    return len(batch[0][0])


def _cut(batch: Batch, part: slice) -> Batch:
    return tuple(one[part] for one in batch[0]), None if batch[1] is None else batch[1][part]


def _joinable(one: Batch, other: Batch) -> bool:
    """Whether two batches can be one: sequences of another length cannot."""
    tensors = [list(batch[0]) + ([] if batch[1] is None else [batch[1]]) for batch in (one, other)]
    return [t.shape[1:] for t in tensors[0]] == [t.shape[1:] for t in tensors[1]]


def _joined(one: Batch, other: Batch) -> Batch:
    inputs = tuple(torch.cat(pair) for pair in zip(one[0], other[0], strict=True))
    return inputs, None if one[1] is None or other[1] is None else torch.cat([one[1], other[1]])


def head(inputs: Sequence[Tensor], count: int) -> Inputs:
    """Return the first samples of a batch."""
    return tuple(one[:count] for one in inputs)
