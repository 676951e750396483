"""A session of onnxruntime that runs where it was told to, or none at all."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from exporters.runtimes.session import KernelError, ProviderError, Run


def open_session(onnx: Path | bytes, provider: str, options: Mapping[str, str]) -> Any:
    """Return an InferenceSession on that provider alone, all graph optimisations on.

    onnxruntime puts the CPU behind every provider and falls back to it without a word: such a session is
    refused. Raises ProviderError, its KernelError where onnxruntime has no kernel for a node.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 4
    if provider != "CPUExecutionProvider":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    source = onnx if isinstance(onnx, bytes) else str(onnx)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "not available, falling back": judged below
        try:
            session = onnxruntime.InferenceSession(source, settings, providers=[(provider, dict(options))])
        except Exception as error:  # onnxruntime's errors share no class of their own
            if "NOT_IMPLEMENTED" in str(error):
                why = str(error).strip().rpartition("NOT_IMPLEMENTED : ")[2]
                raise KernelError(f"{provider} lacks a kernel ({why})") from error
            raise ProviderError(f"{provider} does not take the graph ({str(error).strip()})") from error
    given = session.get_providers()
    if given[0] != provider:
        raise ProviderError(f"asked for {provider}, onnxruntime runs {', '.join(given)}")
    return session


def runner(session: Any) -> Run:
    """Return a function from batch inputs to outputs, as torch tensors."""
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        feeds = {name: one.numpy() for name, one in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feeds)]

    return run
