"""PyTorch on the first CUDA device, in true float32: by default cuDNN would take TF32 for convolutions."""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from exporters.rounding import outputs_of
from exporters.runtimes.session import AbsentError, Network, Session


def start(network: Network) -> Session:
    """Return a session. Raises AbsentError without a module or a CUDA device."""
    if network.module is None:
        raise AbsentError("no torch model was given")
    if not torch.cuda.is_available():
        raise AbsentError("no CUDA device that this torch can use")
    module = copy.deepcopy(network.module).cuda()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad(), float32_only():
            return [output.cpu() for output in outputs_of(module(*[one.cuda() for one in inputs]))]

    major, minor = torch.cuda.get_device_capability()
    override = os.environ.get("NVIDIA_TF32_OVERRIDE", "unset")
    return Session(
        runtime="torch_cuda",
        version=f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        provider="torch CUDA",
        device=f"{torch.cuda.get_device_name()} (sm_{major}{minor})",
        threads=torch.get_num_threads(),
        settings=lambda: f"TF32 off, NVIDIA_TF32_OVERRIDE {override}",
        run=run,
        run_dense=run,
    )


@contextmanager
def float32_only() -> Iterator[None]:
    """Switch TF32 off in both libraries, and back to what it was."""
    matmul, conv = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, conv
