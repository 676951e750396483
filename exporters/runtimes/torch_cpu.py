"""PyTorch on the CPU: the module itself, with the packed weights. Zeros cost what other weights cost."""

import platform
from collections.abc import Sequence

import torch
from torch import Tensor

from exporters.rounding import outputs_of
from exporters.runtimes.session import AbsentError, Network, Session


def start(network: Network) -> Session:
    """Return a session. The process's own precision settings hold (autocast, matmul precision).

    Raises AbsentError without a module.
    """
    module = network.module
    if module is None:
        raise AbsentError("no torch model was given")

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return outputs_of(module(*inputs))

    return Session(
        runtime="torch_cpu",
        version=torch.__version__,
        provider="torch",
        device=cpu(),
        threads=torch.get_num_threads(),
        settings=lambda: f"matmul precision {torch.get_float32_matmul_precision()}",
        run=run,
        run_dense=run,
    )


def cpu() -> str:
    """Return what the processor calls itself."""
    return f"{platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
