"""A file of weights, transformed and packed: what `compressor pack --fold-dead --order-units` does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor import models
from compressor.errors import InputError
from compressor.packed import Sizes
from compressor.runs import Run
from compressor.single import masked_state
from compressor.transforms.steps import SAMPLES, packed_as_asked
from compressor.weights import Mask


def pack_transformed(
    run: Run,
    path: Path,
    out: Path,
    wanted: Mapping[str, bool],
    packing: Mapping[str, Any],
    *,
    mask: Path | None,
    from_zeros: bool,
) -> tuple[Sizes, list[dict[str, Any]]]:
    """Pack a file as the weights of the recipe's network after transforms; return sizes and what each step gave.

    wanted: whether, by the names of compressor.transforms.steps.TRANSFORMS. packing: options of `compressor.pack`.
    mask, from_zeros: as for `compressor.single.pack_file`. The proof is made on training images of the recipe's data.
    Raises InputError if the weights are not the network's, and the errors of the transforms; then nothing is written.
    """
    state, chosen = masked_state(path, mask, from_zeros=from_zeros)
    model = run.network()
    models.load_weights(model, path)
    for name, tensor in model.state_dict().items():
        if name in state and state[name].dtype != tensor.dtype:
            raise InputError(
                f"{path}: {name} is {state[name].dtype}, in {run.recipe.model.name} {tensor.dtype}; transform it as "
                "the network has it, and lower its values when it is packed (--values)"
            )
    sizes, _, found = packed_as_asked(model, Mask(chosen), out, run.batch(SAMPLES), wanted, packing)
    return sizes, found
