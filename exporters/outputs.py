"""Checks 3 and 4: what each runtime computes, in units of sigma, and what it decides.

One pass over the data. The first `samples` of them are held against the float64 reference; on the others a
runtime is held against torch float32, at sqrt(2) times the limit since both have rounded. Sigma is measured
on the first 16 and carried to the others by the size of their outputs; what looks wrong by that is measured
again with a sigma of its own before it is called wrong: a carried sigma raises no alarm.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from exporters.rounding import samples_of
from exporters.runtimes.session import Session
from exporters.samples import FIRST, Batch, Inputs
from exporters.standard import Expected, Standard
from exporters.verdict import Disagreement

LIMIT: Final = 8.0  # sigma; honest float32 runs measured 1.1 to 3.5 (exporters/rounding.py)
MARGIN: Final = 2 * LIMIT  # two outputs, each off by the limit


@dataclass(slots=True)
class Tally:
    """What one runtime has shown so far. failure: why it is not looked at any more.

    ratio, error, sigma: of the worst value, at `sample` in output number `output`.
    """

    failure: str = ""
    ratio: float = 0.0
    error: float = 0.0
    sigma: float | None = None
    output: int = 0
    sample: int = 0
    correct: int = 0
    labelled: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)


@dataclass(slots=True)
class Survey:
    """The tallies by runtime; undecided: why there are no decisions; first: one sample, for timing."""

    tallies: dict[str, Tally]
    samples: int = 0
    referenced: int = 0
    undecided: str = ""
    first: Inputs = ()


def survey(
    sessions: Sequence[Session], batches: Iterable[Batch], standard: Standard | None, referenced: int | None
) -> Survey:
    """Run every session on every batch. referenced: samples to hold against float64, None for all.

    Without a standard the first session is what the others are held against: there is no sigma, and only a
    difference to tell. Raises InputError if the network does not take the data.
    """
    found = Survey({session.runtime: Tally() for session in sessions})
    for inputs, labels in batches:
        count = len(inputs[0])
        if standard is None:
            outputs = _run(sessions[0], found.tallies[sessions[0].runtime], inputs)
            if outputs is None:
                break
            expected = Expected(inputs, outputs, None, exact=False)
        else:
            expected = standard.expect(inputs, referenced is None or found.samples < referenced)
        found.first = found.first or tuple(one[:1] for one in inputs)
        found.undecided = found.undecided or _undecided(expected)
        for session in sessions:
            tally = found.tallies[session.runtime]
            if tally.failure:
                continue
            known = standard is not None and not expected.exact and session.run is standard.single
            got = expected.outputs if known else _run(session, tally, inputs)
            if got is None or not _fits(tally, got, expected):
                continue
            sigmas = _weigh(tally, got, expected, standard, found.samples)
            if not found.undecided and not tally.failure:
                _decide(tally, got[0], expected, sigmas, standard, found.samples)
                _score(tally, got[0], labels)
        found.samples += count
        found.referenced += count if expected.exact else 0
    return found


def _run(session: Session, tally: Tally, inputs: Inputs) -> list[Tensor] | None:
    try:
        return session.run(inputs)
    except Exception as error:  # whatever a runtime raises is the finding
        shapes = [list(one.shape) for one in inputs]
        tally.failure = f"does not run on inputs of shapes {shapes} ({str(error).strip().splitlines()[0]})"
        return None


def _fits(tally: Tally, outputs: Sequence[Tensor], expected: Expected) -> bool:
    ours, theirs = [list(o.shape) for o in expected.outputs], [list(o.shape) for o in outputs]
    if ours != theirs:
        tally.failure = f"gives outputs of shapes {theirs} where {ours} are due"
    return ours == theirs


def _errors(outputs: Sequence[Tensor], expected: Expected) -> Tensor:
    """Return the largest error of each sample in each output: (outputs, N), not finite counts as infinite."""
    rows = []
    for output, right in zip(outputs, expected.outputs, strict=True):
        same = (output == right) | (output.isnan() & right.isnan())
        error = torch.where(same, 0, (output.double() - right.double()).abs()).nan_to_num(nan=math.inf)
        rows.append(samples_of(error, expected.count).amax(dim=1).expand(expected.count))
    return torch.stack(rows)


def _measure(outputs: Sequence[Tensor], expected: Expected) -> tuple[Tensor, Tensor, Tensor]:
    """Return errors, sigmas and their ratios, each (outputs, N); 0 / 0 is 0."""
    errors = _errors(outputs, expected)
    if expected.sigmas is None:
        return errors, torch.full_like(errors, math.nan), torch.zeros_like(errors)
    sigmas = torch.stack([sigma.expand(expected.count) for sigma in expected.sigmas])
    return errors, sigmas, torch.where(errors == 0, 0, errors / sigmas)


def _weigh(
    tally: Tally, outputs: Sequence[Tensor], expected: Expected, standard: Standard | None, offset: int
) -> Tensor:
    """Add a chunk to the tally and return the sigmas of its first output, (N,)."""
    errors, sigmas, ratios = _measure(outputs, expected)
    suspects = (ratios.amax(dim=0) > LIMIT).nonzero().flatten()
    if standard and len(suspects):
        suspects = suspects[ratios.amax(dim=0)[suspects].argsort(descending=True)]
        whole = any(output.ndim == 0 or len(output) != expected.count for output in outputs)
        for part in [torch.arange(expected.count)] if whole else suspects.split(FIRST):
            own = standard.own(tuple(one[part] for one in expected.inputs))
            again = _measure(outputs if whole else [output[part] for output in outputs], own)
            errors[:, part], sigmas[:, part], ratios[:, part] = again
            if bool((again[2] > LIMIT).any()):
                break
    worst = int((ratios if standard else errors).argmax())
    output, sample = divmod(worst, expected.count)
    ratio, error = float(ratios[output, sample]), float(errors[output, sample])
    if tally.sigma is None or (ratio, error) > (tally.ratio, tally.error):
        tally.ratio, tally.error, tally.sigma = ratio, error, float(sigmas[output, sample])
        tally.output, tally.sample = output, offset + sample
    if ratio > LIMIT or not math.isfinite(error):
        tally.failure = _too_far(tally)
    return sigmas[0]


def _too_far(tally: Tally) -> str:
    text = f"sample {tally.sample} is off by {tally.error:.3g}: {tally.ratio:.3g} sigma, limit {LIMIT:g}"
    # bfloat16 was measured at 15,700 and more, TF32 keeps three bits more
    hint = "; arithmetic in bfloat16, float16 or TF32 makes errors of such size" if tally.ratio > 200 else ""
    return text + hint


def _undecided(expected: Expected) -> str:
    """Return why these outputs are no decision between classes, or ""."""
    if len(expected.outputs) != 1:
        return f"{len(expected.outputs)} outputs, not one with a value per class"
    shape = expected.outputs[0].shape
    if not shape or shape[0] != expected.count or len(shape) > 2 or 0 in shape:
        return f"outputs of shape {list(shape)}, not one value per class"
    return ""


def _classes(output: Tensor) -> Tensor:
    """Return the decision of each sample: the first largest value, or the sign of a single one."""
    values = output.reshape(len(output), -1)
    return values.argmax(dim=1) if values.shape[1] > 1 else (values[:, 0] > 0).long()


def _decide(
    tally: Tally, output: Tensor, expected: Expected, sigmas: Tensor, standard: Standard | None, offset: int
) -> None:
    """Note every sample that is decided otherwise, with its margin in the float64 reference."""
    ours, theirs = _classes(expected.outputs[0]), _classes(output)
    others = (ours != theirs).nonzero().flatten()
    if not len(others):
        return
    inputs = tuple(one[others] for one in expected.inputs)
    right = expected.outputs[0][others]
    if standard and not expected.exact:
        right = standard.reference.run(inputs)[0]
    values = right.reshape(len(others), -1)
    if values.shape[1] > 1:
        margins = (values.gather(1, ours[others, None]) - values.gather(1, theirs[others, None])).abs()[:, 0]
    else:
        margins = values[:, 0].abs()
    sigma = sigmas[others]
    if standard and bool((margins > MARGIN * sigma).any()):
        measured = standard.own(inputs).sigmas
        sigma = measured[0].expand(len(others)) if measured else sigma
    for i, sample in enumerate(others.tolist()):
        classes = int(ours[sample]), int(theirs[sample])
        tally.disagreements.append(
            Disagreement(offset + sample, *classes, float(margins[i]), float(sigma[i]))
        )


def _score(tally: Tally, output: Tensor, labels: Tensor | None) -> None:
    if (
        labels is None
        or labels.ndim != 1
        or labels.is_floating_point()
        or output.reshape(len(output), -1).shape[1] < 2
    ):
        return
    tally.correct += int((_classes(output) == labels).sum())
    tally.labelled += len(labels)
