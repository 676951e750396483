"""torch's ONNX exporter, called quietly, its many errors turned into one sentence."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch
from torch import nn

from compressor.errors import InputError
from exporters.graph import OPSET
from exporters.rounding import open_layers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, logs and prints of torch and onnxscript; their errors still come as exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(disabled)


def trace(model: nn.Module, example: tuple[torch.Tensor, ...]) -> ir.Model:
    """Return the graph of a module in eval mode, not optimised, its first axis called "batch".

    example: inputs of batch 2 or more; an input whose first axis has another size keeps that size.
    Raises InputError if the module does not take the example, or torch cannot trace or convert it.
    """
    batch = example[0].shape[0]
    axes = tuple({0: "batch"} if one.ndim and one.shape[0] == batch else {} for one in example)
    try:
        with quiet(), torch.no_grad(), open_layers():
            program = torch.onnx.export(
                model,
                example,
                dynamo=True,
                optimize=False,
                external_data=False,
                opset_version=OPSET,
                dynamic_shapes=axes,
                verbose=False,
            )
    except Exception as error:  # the exporter maps whatever the module raises to errors of its own
        raise _refusal(model, example, error) from error
    assert program is not None
    domains = {node.domain for node in ir.traversal.RecursiveGraphIterator(program.model.graph)}
    if domains - {""} or program.model.opset_imports.get("") != OPSET:
        raise InputError(
            f"{type(model).__name__}: torch exports it with operators that are not of ONNX {OPSET}"
        )
    return program.model


def _refusal(model: nn.Module, example: tuple[torch.Tensor, ...], error: BaseException) -> InputError:
    """Return one sentence: the example does not fit, or what torch.export said first."""
    name = type(model).__name__
    try:
        with quiet(), torch.no_grad():
            model(*example)
    except Exception as own:
        shapes = ", ".join(str(tuple(one.shape)) for one in example)
        return InputError(f"{name}: does not take an example of shape {shapes} ({_first_line(own)})")
    while error.__cause__ is not None:
        error = error.__cause__
    return InputError(f"{name}: torch.export cannot trace it ({_first_line(error)})")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
