"""What the outputs of a runtime are held against: the float64 reference or torch float32, and their sigma."""

import math
from dataclasses import dataclass

from torch import Tensor

from compressor.errors import InputError
from exporters.rounding import Reference, samples_of
from exporters.runtimes.session import Run
from exporters.samples import Inputs


@dataclass(frozen=True, slots=True)
class Expected:
    """What the outputs of a chunk are held against. sigmas: per output, (N,) or (1,); None: no reference."""

    inputs: Inputs
    outputs: list[Tensor]
    sigmas: list[Tensor] | None
    exact: bool

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self.inputs[0])


class Standard:
    """The float64 reference, torch float32 (`single`), and the sigma that is carried from the first samples."""

    def __init__(self, reference: Reference, single: Run) -> None:
        self.reference, self.single = reference, single
        self.pooled: list[tuple[float, float]] = []  # per output: sigma, and the size it was measured at

    def expect(self, inputs: Inputs, exact: bool) -> Expected:
        """Return the float64 reference of a chunk, or torch float32 with sqrt(2) sigma.

        Raises InputError if the network does not take the inputs.
        """
        try:
            outputs = self.reference.run(inputs) if exact else self.single(inputs)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            shapes = [list(one.shape) for one in inputs]
            raise InputError(f"the network does not take inputs of shapes {shapes} ({error})") from error
        if not self.pooled:
            sigmas = self.reference.sigma(inputs, outputs)
            sizes = [_sizes(output, inputs) for output in outputs]
            self.pooled = [(_rms(sigma), _rms(size)) for sigma, size in zip(sigmas, sizes, strict=True)]
            return Expected(inputs, outputs, sigmas, exact)
        sigmas = [
            sigma * (1 if exact else math.sqrt(2)) * (_sizes(output, inputs) / (size or 1)).clamp(min=1)
            for output, (sigma, size) in zip(outputs, self.pooled, strict=True)
        ]
        return Expected(inputs, outputs, sigmas, exact)

    def own(self, inputs: Inputs) -> Expected:
        """Return the float64 reference of some samples with a sigma of their own."""
        outputs = self.reference.run(inputs)
        return Expected(inputs, outputs, self.reference.sigma(inputs, outputs), exact=True)


def _sizes(output: Tensor, inputs: Inputs) -> Tensor:
    return samples_of(output, len(inputs[0])).abs().amax(dim=1).double().nan_to_num(posinf=0)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
