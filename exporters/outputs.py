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

from compressor.errors import InputError
from exporters.rounding import Reference, samples_of
from exporters.runtimes.session import Run, Session
from exporters.samples import FIRST, Batch, Inputs, head
from exporters.verdict import Disagreement

LIMIT: Final = 8.0  # sigma; honest float32 runs measured 1.1 to 3.5 (exporters/rounding.py)
MARGIN: Final = 2 * LIMIT  # two outputs, each off by the limit


@dataclass(slots=True)
class Tally:
    """What one runtime has shown so far. failure: why it is not looked at any more; output: of which output."""

    failure: str = ""
    output: int | None = None
    ratio: float = 0.0
    error: float = 0.0
    sigma: float | None = None
    samples: int = 0
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


class _Standard:
    """What outputs are held against, and the sigma to do it with."""

    def __init__(self, reference: Reference, single: Run) -> None:
        self.reference, self.single = reference, single
        self.pooled: list[tuple[float, float]] = []  # per output: sigma, and the size it was measured at

    def outputs(self, inputs: Inputs, exact: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Return the expected outputs and their sigmas, per output of shape (N,)."""
        if not exact:
            expected = self.single(inputs)
            return expected, [math.sqrt(2) * sigma for sigma in self._carried(expected, inputs)]
        expected = self.reference.run(inputs)
        if self.pooled:
            return expected, self._carried(expected, inputs)
        sigmas = self.reference.sigma(head(inputs, FIRST), expected)
        sizes = [_sizes(output, inputs) for output in expected]
        self.pooled = [(_rms(sigma), _rms(size)) for sigma, size in zip(sigmas, sizes, strict=True)]
        return expected, sigmas

    def own(self, inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
        """Return the reference of these samples and their own sigmas."""
        expected = self.reference.run(inputs)
        return expected, self.reference.sigma(inputs, expected)

    def _carried(self, expected: Sequence[Tensor], inputs: Inputs) -> list[Tensor]:
        pairs = zip(expected, self.pooled, strict=True)
        return [s * (_sizes(out, inputs) / (size or 1)).clamp(min=1) for out, (s, size) in pairs]


def survey(
    sessions: Sequence[Session], batches: Iterable[Batch], standard: tuple[Reference, Run] | None, limit: int | None
) -> Survey:
    """Run every session on every batch. limit: samples to hold against float64, None for all.

    standard: the float64 reference and torch float32; None: the first session is what the others are held
    against, there is no sigma, and nothing but a number is found.
    Raises InputError if the network does not take the data.
    """
    found = Survey({session.runtime: Tally() for session in sessions})
    yardstick = _Standard(*standard) if standard else None
    for inputs, labels in batches:
        count = len(inputs[0])
        exact = limit is None or found.samples < limit
        sigmas: list[Tensor] | None = None
        if yardstick is None:
            expected = sessions[0].run(inputs)
        else:
            try:
                expected, sigmas = yardstick.outputs(inputs, exact)
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
                shapes = [list(one.shape) for one in inputs]
                raise InputError(f"the network does not take inputs of shapes {shapes} ({error})") from error
        found.first = found.first or head(inputs, 1)
        found.undecided = found.undecided or _undecided(expected, count)
        for session in sessions:
            tally = found.tallies[session.runtime]
            if not tally.failure:
                _look(session, tally, inputs, expected, sigmas, yardstick)
                if not tally.failure and not found.undecided:
                    _decide(session.run(inputs) if False else tally, labels)
        found.samples += count
        found.referenced += count if exact and yardstick else 0
    return found
