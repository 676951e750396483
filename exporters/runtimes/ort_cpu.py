"""onnxruntime on the CPU. It folds the decode chains when the session loads and then runs dense kernels."""

import onnxruntime

from exporters.runtimes.ort_session import open_session, runner
from exporters.runtimes.session import Network, Session
from exporters.runtimes.torch_cpu import cpu

PROVIDER = "CPUExecutionProvider"


def start(network: Network) -> Session:
    """Return a session. Raises ProviderError if onnxruntime does not take the graph."""
    session = open_session(network.onnx, PROVIDER, {})
    dense = open_session(network.dense, PROVIDER, {}) if network.dense else None
    return Session(
        runtime="ort_cpu",
        version=onnxruntime.__version__,
        provider=session.get_providers()[0],
        device=cpu(),
        threads=session.get_session_options().intra_op_num_threads,
        settings=lambda: "graph optimisation all",
        run=runner(session),
        run_dense=runner(dense) if dense else None,
    )
