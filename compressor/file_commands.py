"""The commands between packed files and others: pack, import, unpack."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from compressor.commands import DATA, DataDir, DataName, File, Json, ModelName, Out, after
from compressor.errors import printable

Base = Annotated[
    Path | None,
    typer.Option(
        "--base", metavar="FILE", help="The packed network that a task file takes its weights from."
    ),
]


def pack(
    *,
    file: File,
    out: Out,
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="A mask that was saved: True is kept.")
    ] = None,
    from_zeros: Annotated[bool, typer.Option("--mask-from-zeros", help="What is 0 is pruned.")] = False,
    format: Annotated[  # noqa: A002
        str, typer.Option("--format", help="auto, or one for all: dense, csr, bitmask, entropy, asni2.")
    ] = "auto",
    values: Annotated[
        Literal["float16", "bfloat16", "int8"] | None,
        typer.Option("--values", help="Lossy: round the values."),
    ] = None,
    biases: Annotated[
        Literal["float16", "bfloat16"] | None,
        typer.Option("--biases", help="Lossy: round what has no mask, biases and norms."),
    ] = None,
    fold_dead: Annotated[
        bool, typer.Option("--fold-dead", help="First drop the weights that do nothing, with proof.")
    ] = False,
    order_units: Annotated[
        bool, typer.Option("--order-units", help="First sort the hidden units, with proof.")
    ] = False,
    model: ModelName = "",
    data: DataName = "",
    data_dir: DataDir = DATA,
    base: Base = None,
    as_json: Json = False,
) -> None:
    """Write the weights in FILE (safetensors, .pt, .pth, .th, packed) as a packed file.

    With --base, of tensors whose kept weights are those of BASE only the mask: a task file, read with BASE alone.
    --fold-dead and --order-units change the network but not its function; they want to know --model and --data, with
    which --values and --biases tell what they do to the outputs.
    """
    if mask is not None and from_zeros:
        raise typer.BadParameter("--mask and --mask-from-zeros say two things; give one of them")
    wanted = {"fold_dead": fold_dead, "order_units": order_units}
    if base is not None and (any(wanted.values()) or model or data):
        raise typer.BadParameter("--base wants the base's own weights; transform and pack without it")
    proved = any(wanted.values()) or bool(model or data)
    if (model or data) and not any((*wanted.values(), values, biases)):
        raise typer.BadParameter(
            "--model and --data are for --fold-dead, --order-units, --values and --biases"
        )
    from compressor import printing
    from compressor.files import check_out
    from compressor.foreign import dense

    check_out(out, file, mask, base)
    packing = {"format": format, "values": values, "biases": biases}
    if proved:
        from compressor.single import context
        from compressor.transforms.files import pack_transformed

        run = context(file, data_dir, model=model, data=data)
        sizes, found = pack_transformed(run, file, out, wanted, packing, mask=mask, from_zeros=from_zeros)
        printing.sizes(out, sizes, as_json, transforms=found)
        if not as_json:
            after("compressor", "show", str(out))
        return
    if dense.is_plain(file):  # torch would take longer to load, and more memory, than the tensors
        pack_file = dense.pack_plain
    else:
        from compressor.single import pack_file
    sizes = pack_file(file, out, packing, mask=mask, from_zeros=from_zeros, base=base)
    printing.sizes(out, sizes, as_json)
    if as_json:
        return
    if sizes.base:
        own = [one.name for one in sizes.tensors if one.role == "sparse" and one.format != "base"]
        typer.echo(f"needs its base, {base}, which is not counted (SHA-256 {sizes.base})")
        typer.echo(printable(f"masked, but with weights of their own: {', '.join(own) or 'none'}"))
    after("compressor", "show", str(out))


def import_(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", show_default=False)],
    out: Out,
    layout: Annotated[
        Literal["a", "b"] | None,
        typer.Option(
            "--layout", help="Of compressed-tensors, if asked: a was written before its version 0.9, b since."
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Of the tensor, if FILE has one without a name.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Write sparse tensors in other formats (compressed-tensors, scipy, torch) as a packed file."""
    from compressor import printing
    from compressor.foreign import import_file

    sizes = import_file(file, out, layout=layout or "", name=name)
    printing.sizes(out, sizes, as_json)
    if not as_json:
        after("compressor", "show", str(out))


def unpack(
    *,
    file: File,
    to: Annotated[Literal["safetensors", "npz-csr", "torch-csr"], typer.Option("--to")],
    out: Out,
    base: Base = None,
) -> None:
    """Write a packed file as what other tools read."""
    from compressor.files import check_out
    from compressor.unpacked import unpack_file

    check_out(out, file, base)
    unpack_file(file, to, out, base)
    typer.echo(f"{out}: {out.stat().st_size:,} bytes")
    name = str(out)
    look = {
        "safetensors": f"import safetensors.torch as s; print(s.load_file({name!r}).keys())",
        "npz-csr": f"import numpy; print(numpy.load({name!r}).files)",
        "torch-csr": f"import torch; print(torch.load({name!r}).keys())",
    }
    after("python", "-c", look[to])
