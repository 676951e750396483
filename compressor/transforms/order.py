"""Sort the hidden units of every chain, so that their order, which means nothing, costs no bits.

Source: research/formats.md D ("unit order"): log2(n!) bits for n different units, 321 bytes of LeNet-300-100.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.copies import copied, undisturbed
from compressor.transforms.chains import Chain, find
from compressor.transforms.proof import prove
from compressor.transforms.result import (
    Layer,
    Transformed,
    device_of,
    plain,
    refuse_misfit,
    tensors_of,
    twin_of,
    untouched,
)
from compressor.transforms.trace import inputs_of, traced
from compressor.weights import Mask


def order_units(model: nn.Module, mask: Mapping[str, Tensor], data: Any) -> Transformed:
    """Return the network with the units of every chain in the descending order of their mask rows.

    Rows are compared as they are stored, row-major, kept before pruned; equal rows stay in their order. From input to
    output: the columns of a layer are permuted with the layer before it, then its rows are sorted; biases, batch norms
    and the columns of every consumer (those of a linear layer behind a flattened convolution in blocks) go along.
    Units that meet others in sums, concatenations or norms are left alone. Values are moved, never changed; what
    changes is the order of float sums. Doing it again changes nothing.
    data: as for `prune`: (x, y), an iterable of such batches, or x alone; all of it is used for the proof.
    Raises InputError if the mask does not fit, a pruned weight is not zero, torch cannot trace the network or it does
    not run on the data; VerificationError if in float64 the outputs differ by more than its rounding.
    """
    refuse_misfit(model, mask)
    batches = inputs_of(model, data)
    with undisturbed(device_of(model)), torch.no_grad():
        network = find(traced(model, batches[0]))
        sorted_model, masks = twin_of(model), plain(mask)
        moved = {
            chain.weight: _sort(chain, tensors_of(sorted_model), masks)
            for chain in network.chains
            if chain.weight in masks
        }
        exact = copied(sorted_model, torch.float64).cpu()
        proof = prove(model, exact, sorted_model, batches)
    layers = tuple(Layer(name, moved=moved[name]) for name in mask if moved.get(name))
    return Transformed(sorted_model, Mask(masks), layers, untouched(network, mask, {}), proof)


def _sort(chain: Chain, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> int:
    """Sort the units of a chain in place; return how many stand elsewhere now."""
    order = _descending(masks[chain.weight])
    moved = int((order != torch.arange(chain.units)).sum())
    if moved:
        for name, factor in chain.tensors():
            for held in (tensors, masks):
                if name in held:
                    _permute(held[name], 0, order, factor)
        for consumer in chain.consumers:
            for held in (tensors, masks):
                if consumer.weight in held:
                    _permute(held[consumer.weight], 1, order, consumer.factor)
    return moved


def _descending(mask: Tensor) -> Tensor:
    """Return the order that sorts the rows of a mask, 1 before 0, equal rows as they stand."""
    pruned = np.packbits(~mask.flatten(1).numpy(), axis=1)
    rows = [row.tobytes() for row in pruned]
    return torch.tensor(sorted(range(len(rows)), key=rows.__getitem__))


def _permute(tensor: Tensor, axis: int, order: Tensor, factor: int) -> None:
    """Put the units of an axis, `factor` places each, in another order, in place."""
    places = (order[:, None] * factor + torch.arange(factor)).flatten().to(tensor.device)
    tensor.copy_(tensor.index_select(axis, places))
