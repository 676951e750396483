"""onnxruntime on CUDA: no fallback to the CPU, no TF32, the same convolution algorithm on every run.

Its cuDNN path is said to ignore use_tf32 (microsoft/onnxruntime #19470): the environment variable
NVIDIA_TF32_OVERRIDE=0, set before the process starts, rules that out, and the row says whether it was.
"""

import os
from typing import Final

import onnxruntime
import torch

from exporters.runtimes.ort_session import open_session, runner
from exporters.runtimes.session import AbsentError, Network, Session

PROVIDER: Final = "CUDAExecutionProvider"
OPTIONS: Final = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


def start(network: Network) -> Session:
    """Return a session. Raises AbsentError (no GPU build, no device), ProviderError (another provider ran)."""
    if PROVIDER not in onnxruntime.get_available_providers():
        raise AbsentError("this onnxruntime has no CUDA; install onnxruntime-gpu in its place")
    if not torch.cuda.is_available():
        raise AbsentError("no CUDA device that this torch can use")
    session = open_session(network.onnx, PROVIDER, OPTIONS)
    dense = open_session(network.dense, PROVIDER, OPTIONS) if network.dense else None
    override = os.environ.get("NVIDIA_TF32_OVERRIDE", "unset")
    return Session(
        runtime="ort_cuda",
        version=f"{onnxruntime.__version__}, CUDA {torch.version.cuda}",
        provider=session.get_providers()[0],
        device=torch.cuda.get_device_name(),
        threads=session.get_session_options().intra_op_num_threads,
        settings=lambda: (
            f"graph optimisation all, CPU fallback disabled, use_tf32 0, NVIDIA_TF32_OVERRIDE {override}"
        ),
        run=runner(session),
        run_dense=runner(dense) if dense else None,
    )
