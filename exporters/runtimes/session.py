"""What a runtime gets and gives; the errors it may start with; and its time beside the dense network."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from torch import Tensor, nn

from compressor.errors import HostError, VerificationError

Run = Callable[[Sequence[Tensor]], list[Tensor]]

BUDGET: Final = 1.0  # seconds of timing per runtime
ROUNDS: Final = 50


class AbsentError(HostError):
    """The runtime is not on this machine: a package or a device is missing."""


class ProviderError(VerificationError):
    """The runtime runs, but not where it was told to."""


class KernelError(ProviderError):
    """The runtime has no kernel for a node: what it lacks for bfloat16 is no fault of the file."""


@dataclass(frozen=True, slots=True)
class Network:
    """The network in both forms. module: eval mode, CPU, the packed weights; None where none was given.

    masks: state-dict key -> bool, the tensors stored sparse; dense: an ONNX of the dense network, for its time.
    bfloat16: whether the packed file holds such tensors; a runtime may then lack kernels.
    """

    onnx: Path
    module: nn.Module | None
    masks: Mapping[str, Tensor]
    dense: Path | None
    bfloat16: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """A runtime that holds the network. run: batch inputs on the CPU -> outputs on the CPU, in order.

    run_dense: the dense network in the same runtime; settings: what was set, and what the runs so far showed.
    """

    runtime: str
    version: str
    provider: str
    device: str
    threads: int
    settings: Callable[[], str]
    run: Run
    run_dense: Run | None


def milliseconds(session: Session, inputs: Sequence[Tensor]) -> tuple[float, float | None]:
    """Return the median time of a run of these inputs, and of the dense network, taken in turn."""
    runs = [session.run] if session.run_dense is None else [session.run, session.run_dense]
    for run in runs:
        run(inputs)
    times: list[list[float]] = [[] for _ in runs]
    started = time.perf_counter()
    while len(times[0]) < 3 or (len(times[0]) < ROUNDS and time.perf_counter() - started < BUDGET):
        for run, taken in zip(runs, times, strict=True):
            begun = time.perf_counter()
            run(inputs)
            taken.append(1000 * (time.perf_counter() - begun))
    medians = [median(taken) for taken in times]
    return medians[0], medians[1] if len(medians) == 2 else None
