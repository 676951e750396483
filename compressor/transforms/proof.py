"""The proof of a transform: in float64 it may change the outputs by float64's own rounding and no more.

The transform is carried out in float64 with nothing rounded back, and both networks run on the data in float64.
What is the same function differs there by rounding alone, of a deviation sigma that float32 shows: the error of the
original network's own float32 run against float64, root mean square over a sample's outputs or over all samples,
whichever is more, times 2^-53 / 2^-24; at least one rounding of the largest output. Allowed are MARGIN sigma, as
between any two runs. A sample beyond them is measured again before it is called wrong, with a sigma of its own by
Monte-Carlo rounding (exporters/rounding.py), drawn at a unit of 2^-40, where it stands clear of the rounding of the
run itself, and scaled to 2^-53. float32's rounding is 2^29 times all that: a constant folded in float32, a wrong
column or sign cannot pass. What the transform does in the network's own dtype, its biases rounded, is measured on
the same data and told.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from compressor.copies import copied, first_line
from compressor.errors import InputError, VerificationError
from compressor.transforms.trace import Inputs
from exporters.outputs import MARGIN
from exporters.rounding import UNIT, Reference, outputs_of, samples_of
from exporters.samples import CHUNK, FIRST

_DRAWN_AT: Final = 2.0**-40


@dataclass(frozen=True, slots=True)
class Change:
    """What became of the outputs on `samples` samples, in the network's own dtype.

    change: the largest of an output; relative: in units of the largest output of the same sample; agreement: the share
    of samples with the same largest logit, None where there are no logits.
    """

    samples: int
    change: float
    relative: float
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Proof(Change):
    """error: the largest change of an output in float64; ratio: in sigma, at most MARGIN."""

    error: float
    ratio: float


def prove(before: nn.Module, exact: nn.Module, after: nn.Module, batches: Sequence[Inputs]) -> Proof:
    """Return the proof that `after` computes what `before` does.

    exact: the same transform of a float64 copy, not rounded to the dtype of the network.
    Raises VerificationError if it does not, InputError if the network does not run on the data or its outputs
    are not finite.
    """
    reference, transformed = Reference(before), Reference(exact)
    ours = copied(before).cpu()
    largest = furthest = 0.0
    for inputs in _chunks(batches):
        old = _run(before, inputs, lambda x: outputs_of(ours(*x)))
        clean, got = _run(before, inputs, reference.run), _run(before, inputs, transformed.run)
        if not all(bool(torch.isfinite(output).all()) for output in (*clean, *old)):
            raise InputError(f"{type(before).__name__}: its outputs on the data are not finite")
        error, ratio = _held(reference, inputs, clean, got, old)
        if not ratio <= MARGIN:
            raise VerificationError(
                f"{type(before).__name__}: in float64 the transform changes an output by {error:.3g}, {ratio:.3g} "
                f"sigma of float64's rounding where {MARGIN:g} are allowed; nothing was changed"
            )
        largest, furthest = max(largest, error), max(furthest, ratio)
    found = change_of(before, after, batches)
    return Proof(**asdict(found), error=largest, ratio=furthest)


def change_of(before: nn.Module, after: nn.Module, batches: Sequence[Inputs]) -> Change:
    """Return what becomes of the outputs when one network takes the place of the other.

    Raises InputError if the network does not run on the data, VerificationError for outputs that are not finite.
    """
    ours, theirs = copied(before).cpu(), copied(after).cpu()
    found = Change(0, 0.0, 0.0, None)
    agreed = judged = 0
    for inputs in _chunks(batches):
        old = _run(before, inputs, lambda x: outputs_of(ours(*x)))
        new = _run(before, inputs, lambda x: outputs_of(theirs(*x)))
        if not all(bool(torch.isfinite(output).all()) for output in new):
            raise VerificationError(
                f"{type(before).__name__}: its outputs are not finite any more; keep its own values"
            )
        change, relative = _changes(old, new, _count(inputs))
        samples = found.samples + _count(inputs)
        found = Change(samples, max(found.change, change), max(found.relative, relative), None)
        if old and old[0].dim() == 2 and old[0].shape[1] > 1:
            agreed += int((old[0].argmax(1) == new[0].argmax(1)).sum())
            judged += len(old[0])
    return replace(found, agreement=agreed / judged if judged else None)


def _run(module: nn.Module, inputs: Inputs, run: Callable[[Inputs], list[Tensor]]) -> list[Tensor]:
    try:
        with torch.no_grad():
            return run(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        shapes = [list(one.shape) for one in inputs]
        raise InputError(
            f"{type(module).__name__} does not run on inputs of shapes {shapes} ({first_line(error)})"
        ) from error


def _held(
    reference: Reference,
    inputs: Inputs,
    clean: Sequence[Tensor],
    got: Sequence[Tensor],
    single: Sequence[Tensor],
) -> tuple[float, float]:
    """Return the largest error of a chunk and the largest in sigma. single: the network's run in its own dtype."""
    count = _count(inputs)
    errors = _largest_of([one - other for one, other in zip(clean, got, strict=True)], count)
    sigmas = []
    for one, exact in zip(single, clean, strict=True):
        noise = samples_of(one.double() - exact, count).square().mean(dim=1)
        measured = noise.clamp(min=float(noise.mean())).sqrt() * UNIT[torch.float64] / reference.unit
        rounded = samples_of(exact.abs(), count).amax(dim=1) * UNIT[torch.float64] / 3**0.5
        sigmas.append(torch.maximum(measured, rounded))
    ratios = _in(errors, sigmas)
    for part in _suspects(ratios, errors, count):
        whole = len(part) == count
        few = inputs if whole else tuple(x[part] if x.dim() and len(x) == count else x for x in inputs)
        own = _drawn(reference, few, clean if whole else [output[part] for output in clean])
        ratios[part] = _in(errors if whole else [error[part] for error in errors], own)
    return max((float(error.max()) for error in errors), default=0.0), float(ratios.max())


def _suspects(ratios: Tensor, errors: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return the samples beyond the margin, a few at a time; all at once where an output has no batch axis."""
    beyond = (ratios > MARGIN).nonzero().flatten()
    if not len(beyond):
        return []
    return (
        list(beyond.split(FIRST)) if all(len(error) == count for error in errors) else [torch.arange(count)]
    )


def _drawn(reference: Reference, inputs: Inputs, clean: Sequence[Tensor]) -> list[Tensor]:
    """Return float64's sigma of these samples by Monte-Carlo rounding, per output."""
    unit, reference.unit = reference.unit, _DRAWN_AT
    try:
        return [sigma * (UNIT[torch.float64] / _DRAWN_AT) for sigma in reference.sigma(inputs, clean)]
    finally:
        reference.unit = unit


def _largest_of(outputs: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return the largest absolute value of each sample, per output: (count,), or (1,) without a batch axis."""
    return [samples_of(output.abs(), count).amax(dim=1) for output in outputs]


def _in(errors: Sequence[Tensor], sigmas: Sequence[Tensor]) -> Tensor:
    """Return the largest ratio of each sample; 0 / 0 is 0."""
    ratios = [torch.where(e == 0, 0.0, e / sigma) for e, sigma in zip(errors, sigmas, strict=True)]
    most = max(len(ratio) for ratio in ratios) if ratios else 1
    return torch.stack([torch.zeros(most).double(), *(ratio.expand(most) for ratio in ratios)]).amax(dim=0)


def _changes(old: Sequence[Tensor], new: Sequence[Tensor], count: int) -> tuple[float, float]:
    """Return the largest change of an output, and the largest in units of its sample's largest output."""
    gaps = _largest_of([b.double() - a.double() for a, b in zip(old, new, strict=True)], count)
    sizes = _largest_of([a.double() for a in old], count)
    relative = _in(gaps, sizes)
    return max((float(gap.max()) for gap in gaps), default=0.0), float(relative.max())


def _chunks(batches: Sequence[Inputs]) -> Iterator[Inputs]:
    """Yield the batches in pieces that a float64 run holds."""
    for inputs in batches:
        count = _count(inputs)
        for start in range(0, count, CHUNK):
            yield tuple(x[start : start + CHUNK] if x.dim() and len(x) == count else x for x in inputs)


def _count(inputs: Inputs) -> int:
    return len(inputs[0]) if inputs[0].dim() else 1
