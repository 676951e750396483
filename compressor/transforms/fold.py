"""Fold what is constant, remove what feeds nothing: the same function with fewer kept weights.

Source: research/formats.md D ("dead paths"). Differs: through convolutions and batch norms too, and proved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from compressor.copies import copied, undisturbed
from compressor.errors import VerificationError
from compressor.transforms.chains import Chain, Consumer, find
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
from compressor.transforms.trace import inputs_of, traced, values_at
from compressor.weights import Mask

# Of float64 values that are sums of at most some thousand equal terms: far above 2^-53, far below float32's 2^-24.
_EQUAL: Final = 2.0**-40


@dataclass(slots=True)
class _Work:
    """A float64 copy of the network while it is folded.

    constants: consumer -> what it reads, and whether that is the same in every sample and place, (units, factor) each.
    """

    tensors: dict[str, Tensor]
    masks: dict[str, Tensor]
    constants: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    folded: dict[str, Tensor] = field(default_factory=dict)
    removed: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)


@torch.no_grad()
def fold_dead(model: nn.Module, mask: Mapping[str, Tensor], data: Any) -> Transformed:
    """Return the network without the weights that do nothing, its function unchanged.

    A unit whose row of kept weights is empty is a constant: the constant, from a float64 run of the network, times
    the weights that read it goes into their bias or, where they have none and a batch norm follows, into its running
    mean; the weights are pruned. A unit that no kept weight reads goes too: its row is pruned, its bias and its weight,
    bias, running mean and variance in a batch norm become 0 (with eps above 0 its output is then 0, and all five are
    zeros that a packed file need not store). Repeated until nothing changes; names and shapes stay. Kept weights never
    change their value, so two-level weights stay two-level.
    A unit is left alone where that would not be exact: a constant that is not 0 before zero padding, or before weights
    with neither bias nor batch norm; units that meet others in sums, concatenations or norms; weights not in the mask.
    data: as for `prune`: (x, y), an iterable of such batches, or x alone; all of it is used for the proof.
    Raises InputError if the mask does not fit, a pruned weight is not zero, torch cannot trace the network or it does
    not run on the data; VerificationError if in float64 the outputs differ by more than its rounding.
    """
    refuse_misfit(model, mask)
    batches = inputs_of(model, data)
    with undisturbed(device_of(model)), torch.no_grad():
        graph = traced(model, batches[0])
        network = find(graph)
        exact = copied(model, torch.float64).cpu()._apply(torch.Tensor.contiguous)
        work = _Work(tensors_of(exact), plain(mask))
        chains = [chain for chain in network.chains if _covered(chain, work)]
        found = values_at(graph, work.tensors, [c.node for chain in chains for c in chain.consumers])
        for chain in chains:
            for consumer in chain.consumers:
                read = found[consumer.node.name].movedim(consumer.axis, 0)
                work.constants[consumer.weight] = _constants(read.reshape(chain.units, consumer.factor, -1))
        _to_the_end(chains, work)
        folded = _rounded(model, work)
        proof = prove(model, exact, folded, batches)
    left = untouched(network, mask, work.left)
    return Transformed(folded, Mask(work.masks), _layers(mask, work), left, proof)


def _covered(chain: Chain, work: _Work) -> bool:
    """Whether the mask covers a whole chain; a dense weight has no places to be pruned."""
    dense = [name for name in (chain.weight, *(c.weight for c in chain.consumers)) if name not in work.masks]
    if dense and chain.weight in work.masks:
        work.left[chain.weight] = f"it feeds {dense[0]}, which is not in the mask"
    return not dense


def _to_the_end(chains: Sequence[Chain], work: _Work) -> None:
    """Fold and remove until nothing changes.

    The values are those of the network as it was: what is constant now was so then, as no step changes the function.
    """
    moving = True
    while moving:
        folded = [_fold(chain, work) for chain in chains]
        removed = [_remove(chain, work) for chain in reversed(chains)]
        moving = any(folded) or any(removed)


def _columns(work: _Work, chain: Chain, consumer: Consumer) -> tuple[Tensor, Tensor]:
    """Return weights and mask of a consumer as (outputs, units, factor, places): views, for writing too."""
    shape = (-1, chain.units, consumer.factor, work.tensors[consumer.weight][0, 0].numel())
    weight, mask = work.tensors[consumer.weight], work.masks[consumer.weight]
    return weight.view(shape), mask.view(shape)


def _rows(work: _Work, chain: Chain) -> Tensor:
    return work.masks[chain.weight].flatten(1).any(dim=1)


def _read(work: _Work, chain: Chain) -> Tensor:
    found = [
        _columns(work, chain, consumer)[1].any(dim=3).any(dim=2).any(dim=0) for consumer in chain.consumers
    ]
    return torch.stack(found).any(dim=0)


def _fold(chain: Chain, work: _Work) -> bool:
    """Fold the units that read nothing and are read; return whether there were any."""
    work.left.pop(chain.weight, None)
    dead = ~_rows(work, chain) & _read(work, chain)
    for consumer in chain.consumers:
        dead &= _exact(chain, consumer, dead, work)
    if not bool(dead.any()):
        return False
    for consumer in chain.consumers:
        weight, mask = _columns(work, chain, consumer)
        constants, _ = work.constants[consumer.weight]
        shift = (weight[:, dead].sum(dim=3) * constants[dead]).sum(dim=(1, 2))
        if bool(shift.any()):
            work.tensors[consumer.taker] += consumer.sign * shift
            work.changed.add(consumer.taker)
        weight[:, dead] = 0
        mask[:, dead] = False
        work.changed.add(consumer.weight)
    work.folded[chain.weight] = work.folded.get(chain.weight, torch.zeros_like(dead)) | dead
    return True


def _constants(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value of each unit in (units, factor, samples and places), and whether it is one and the same."""
    low, high = values.amin(dim=2), values.amax(dim=2)
    same = torch.isfinite(low) & (high - low <= _EQUAL * torch.maximum(low.abs(), high.abs()))
    return values[..., 0].clone(), same


def _exact(chain: Chain, consumer: Consumer, dead: Tensor, work: _Work) -> Tensor:
    """Return of which units the constant may be folded, (units,), and note why not of the others."""
    constants, same = work.constants[consumer.weight]
    read = _columns(work, chain, consumer)[1].any(dim=3).any(dim=0)
    counts = read & (constants != 0)
    reasons = [
        (read & ~same, f"not the same at every place that {consumer.weight} reads (padding on the way)"),
        (counts & (not consumer.taker or consumer.taker in work.masks), _no_taker(consumer)),
        (counts & consumer.padded, f"not 0, and {consumer.weight} pads with zeros"),
    ]
    possible = torch.ones(chain.units, dtype=torch.bool)
    for wrong, why in reasons:
        stopped = wrong.any(dim=1) & dead & possible
        possible &= ~wrong.any(dim=1)
        if bool(stopped.any()):
            told = f"{int(stopped.sum())} of its units, though constant: {why}"
            work.left[chain.weight] = "; ".join(filter(None, (work.left.get(chain.weight), told)))
    return possible


def _no_taker(consumer: Consumer) -> str:
    return f"{consumer.weight} has neither a bias of its own nor a batch norm behind it that could take them"


def _remove(chain: Chain, work: _Work) -> bool:
    """Set everything about the units that nothing reads to 0; return whether anything was not."""
    unread = ~_read(work, chain)
    zeroed = [(chain.weight, 1), *([(chain.bias, 1)] if chain.bias else [])]
    for norm in chain.norms:
        # With eps 0 a variance of 0 would make 0 / 0 of it.
        keys = norm.keys if norm.eps > 0 else tuple(key for key in norm.keys if key != norm.var)
        zeroed += [(key, norm.factor) for key in keys]
    gone = torch.zeros_like(unread)
    for name, factor in zeroed:
        places = unread.repeat_interleave(factor)
        full = work.tensors[name].reshape(chain.units, -1).ne(0).any(dim=1) & unread
        if name in work.masks:
            full |= work.masks[name].reshape(chain.units, -1).any(dim=1) & unread
            if name == chain.weight:
                work.masks[name][places] = False
        if bool(full.any()):
            work.tensors[name][places] = 0
            work.changed.add(name)
        gone |= full
    if not bool(gone.any()):
        return False
    folded = work.folded.get(chain.weight, torch.zeros_like(gone))
    work.removed[chain.weight] = work.removed.get(chain.weight, torch.zeros_like(gone)) | (gone & ~folded)
    return True


def _rounded(model: nn.Module, work: _Work) -> nn.Module:
    """Return a copy of the network with what changed in float64, in the network's own dtype."""
    twin = twin_of(model)
    own = tensors_of(twin)
    for name in sorted(work.changed):
        own[name].copy_(work.tensors[name])
        if not bool(torch.isfinite(own[name]).all()):
            raise VerificationError(
                f'"{name}": folded, it does not fit {own[name].dtype}; nothing was changed'
            )
    return twin


def _layers(before: Mapping[str, Tensor], work: _Work) -> tuple[Layer, ...]:
    found = []
    for name, kept in before.items():
        folded, removed = (
            int(done[name].sum()) if name in done else 0 for done in (work.folded, work.removed)
        )
        layer = Layer(name, folded, removed, dropped=int(kept.sum()) - int(work.masks[name].sum()))
        if layer != Layer(name):
            found.append(layer)
    return tuple(found)
