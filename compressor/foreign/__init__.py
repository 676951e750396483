"""Sparse networks in other people's formats, each with a file of its own here, on their way into a packed file."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compressor import plain
from compressor.errors import InputError, unknown
from compressor.files import check_out, is_folder, kind_of
from compressor.foreign import bitmask, dense, npz, pruned
from compressor.packed import Sizes, reader, write
from compressor.packed.item import Given

__all__ = ["import_file"]


@dataclass(frozen=True, slots=True)
class Options:
    """What a file may leave open. layout: of compressed-tensors, a or b; name: of a tensor that has none."""

    layout: str = ""
    name: str = ""


def import_file(path: Path | str, out: Path | str, *, layout: str = "", name: str = "") -> Sizes:
    """Write a sparse network as a packed file, bit for bit, a value of 0.0 that was stored as a kept one.

    path: safetensors with sparse-bitmask tensors of compressed-tensors (a file, an index.json, or a folder, with the
    config.json beside it, without which a wholly dense one is refused) or with masks of torch.nn.utils.prune; a torch
    checkpoint with CSR or COO tensors or such masks; an npz of scipy.sparse (CSR) or of `compressor unpack --to
    npz-csr`. layout: "a" or "b", where the file leaves open which of the two compressed-tensors wrote. name: of the
    tensor in a file that names none.
    Raises InputError (nothing sparse in it, not supported, cannot be read), FormatError (damaged), HostError.
    """
    if layout and layout not in bitmask.LAYOUTS:
        raise unknown("layout", layout, bitmask.LAYOUTS)
    path, out = Path(path), Path(out)
    check_out(out, path)
    kind = "safetensors" if is_folder(path) or path.suffix == ".json" else kind_of(path)
    if kind not in IMPORTERS:
        what = {"empty": "is empty", "onnx": "is an ONNX file"}.get(kind, "is something else")
        raise InputError(f"{path}: {what}; safetensors, npz and torch checkpoints are imported")
    with ExitStack() as stack:
        given = IMPORTERS[kind](path, out, Options(layout, name), stack)
        return write(out, given)


def _safetensors(path: Path, out: Path, options: Options, _: ExitStack) -> list[Given]:
    """Return the tensors of compressed-tensors, or those with masks of torch's.

    A file with neither is dense and taken only if a config.json of compressed-tensors lies beside it: since 0.9 that
    leaves a network dense whose weights are not called NAME.weight.
    """
    if not is_folder(path) and reader.is_packed(path):
        raise InputError(f"{path}: is a packed file already")
    tensors = plain.tensors(path)
    check_out(out, plain.file_of(path), *{one.path for one in tensors.values()})
    if options.name:
        raise InputError(f"{path}: its tensors have names; leave out --name")
    if bitmask.is_bitmask(tensors):
        return bitmask.givens(path, tensors, options.layout)
    if pruned.is_pruned(tensors):
        return pruned.joined(path, dense.named(tensors))
    if not bitmask.is_beside(path):
        raise InputError(f"{path}: holds nothing sparse; compressor pack {path} --mask-from-zeros takes it")
    return [dense.given(name, one) for name, one in tensors.items()]


def _npz(path: Path, _: Path, options: Options, stack: ExitStack) -> list[Given]:
    """Return scipy's matrix, or the tensors of unpack --to npz-csr."""
    _no_layout(path, options)
    return npz.givens(path, options.name, stack)


def _checkpoint(path: Path, _: Path, options: Options, __: ExitStack) -> list[Given]:
    """Return the sparse tensors of a torch checkpoint, those with masks of torch's, and the others."""
    from compressor.foreign import checkpoint

    _no_layout(path, options)
    tensors, sparse = checkpoint.givens(path, options.name)
    if not sparse and not pruned.is_pruned(tensors):
        raise InputError(f"{path}: holds no sparse tensor; compressor pack takes it, and asks for its mask")
    return pruned.joined(path, tensors)


def _no_layout(path: Path, options: Options) -> None:
    if options.layout:
        raise InputError(f"{path}: is not of compressed-tensors; leave out --layout")


IMPORTERS: Final[Mapping[str, Callable[[Path, Path, Options, ExitStack], list[Given]]]] = {
    "safetensors": _safetensors,
    "npz": _npz,
    "checkpoint": _checkpoint,
}
