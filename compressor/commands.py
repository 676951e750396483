"""The commands that prune, tune, export and verify a network; each is one call of compressor.single."""

import shlex
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing more.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="prune.density=0.02; several values are a sweep."),
]
DataDir = Annotated[
    Path,
    typer.Option("--data-dir", envvar="COMPRESSOR_DATA", metavar="DIR", help="Where the data sets lie."),
]
ModelName = Annotated[
    str, typer.Option("--model", metavar="NAME", help="The network; default: the recipe's beside FILE.")
]
DataName = Annotated[
    str, typer.Option("--data", metavar="NAME", help="The data; default: the recipe's beside FILE.")
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")]
File = Annotated[Path, typer.Argument(metavar="FILE", show_default=False)]
DATA: Final = Path("data")


def after(*words: str) -> None:
    """Print the command that one would type next, the last line."""
    typer.echo(f"next: {shlex.join(words)}")


def placed(data_dir: Path) -> list[str]:
    """Return --data-dir as it has to be typed again, if at all."""
    return ["--data-dir", str(data_dir)] if data_dir != DATA else []


def _named(file: Path, model: str, data: str, data_dir: Path) -> list[str]:
    """Return the options that a command on `file` needs: none where a recipe.toml beside it says it all."""
    known = (file.parent / "recipe.toml").is_file()
    return [
        *(["--model", model] if model and not known else []),
        *(["--data", data] if data and not known else []),
        *placed(data_dir),
    ]


def prune(
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The packed file; with --compare the plot (.svg).")
    ],
    density: Annotated[float, typer.Option("--density", metavar="D", help="Kept / prunable, in (0, 1].")],
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="See `compressor methods`.")] = "",
    compare: Annotated[
        str,
        typer.Option("--compare", metavar="A,B,C", help="Several methods side by side; nothing is packed."),
    ] = "",
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Default: the recipe's beside the --weights FILE.")
    ] = "",
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Default: the random start.")
    ] = None,
    data: Annotated[
        str, typer.Option("--data", metavar="NAME", help="Default: the recipe's beside the --weights FILE.")
    ] = "",
    scope: Annotated[str, typer.Option("--scope", help="global, layer or erk.")] = "global",
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="Weights to leave dense.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    data_dir: DataDir = DATA,
    as_json: Json = False,
) -> None:
    """Prune a network by a scoring method and write it as a packed file, or compare several methods."""
    if bool(method) == bool(compare):
        raise typer.BadParameter("say --method NAME, or --compare A,B,C for several side by side")
    from compressor import printing, single
    from compressor.files import check_out

    check_out(out, weights)
    run = single.context(weights, data_dir, model=model, data=data, weights=weights, seed=seed)
    if compare:
        names = [name.strip() for name in compare.split(",") if name.strip()]
        found = single.compare_methods(
            run, out, methods=names, density=density, scope=scope, exclude=exclude or ()
        )
        printing.comparison(out, found, as_json)
        if not as_json:
            best = next(iter(found.masks))
            named = [*(["--weights", str(weights)] if weights else []), *_named(out, model, data, data_dir)]
            words = ["--method", best, "--density", f"{density:g}", "--scope", scope, "--seed", str(seed)]
            words += [part for pattern in exclude or () for part in ("--exclude", pattern)]
            after("compressor", "prune", *words, *named, "--out", "pruned.safetensors")
        return
    pruned = single.prune_file(run, out, method=method, density=density, scope=scope, exclude=exclude or ())
    printing.pruned(out, pruned, as_json)
    if not as_json:
        beside = out.parent / single.RECIPE
        if not beside.is_file() and weights is not None and (weights.parent / single.RECIPE).is_file():
            beside = weights.parent / single.RECIPE
        if beside.is_file():
            how = ("--recipe", str(beside), *placed(data_dir))
            after("compressor", "tune", "--start-file", str(out), *how, "--out", "tuned.safetensors")
        else:
            named = _named(out, model, data, data_dir)
            after("compressor", "export", str(out), *named, "--out", "net.onnx")


def tune(
    *,
    start_file: Annotated[
        Path, typer.Option("--start-file", metavar="FILE", help="start.safetensors, or a pruned network.")
    ],
    out: Out,
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME|FILE", help="Default: the recipe.toml beside FILE.")
    ] = "",
    sets: Sets = None,
    data_dir: DataDir = DATA,
    as_json: Json = False,
) -> None:
    """Train a start, or a pruned network, under its mask by the recipe's tune stage."""
    from compressor import printing, single
    from compressor.files import check_out
    from compressor.progress import told

    check_out(out, start_file)
    with told() as listen:
        run = single.context(
            start_file, data_dir, recipe=recipe, model=None, sets=sets or (), on_event=listen
        )
        sizes, accuracy = single.tune_file(run, start_file, out)
    printing.sizes(out, sizes, as_json, accuracy=accuracy)
    if not as_json:
        named = _named(out, run.recipe.model.name, run.recipe.data.name, data_dir)
        after("compressor", "export", str(out), *named, "--out", "net.onnx")


def export(
    *,
    file: File,
    out: Annotated[Path, typer.Option("--out", metavar="NET.onnx")],
    model: ModelName = "",
    data: DataName = "",
    encoding: Annotated[Literal["compact", "dense"], typer.Option("--encoding")] = "compact",
    data_dir: DataDir = DATA,
) -> None:
    """Write a packed file as ONNX."""
    from compressor import single
    from compressor.files import check_out

    check_out(out, file)
    single.export_file(single.context(file, data_dir, model=model, data=data), file, out, encoding)
    typer.echo(f"{out}: {out.stat().st_size:,} bytes")
    named = [*(["--model", model] if model else []), *(["--data", data] if data else [])]
    after("compressor", "verify", str(file), str(out), *named, *placed(data_dir))


def verify(
    *,
    file: File,
    onnx: Annotated[Path, typer.Argument(metavar="NET.onnx", show_default=False)],
    model: ModelName = "",
    data: DataName = "",
    samples: Annotated[str, typer.Option("--samples", help="For the float64 reference; or all.")] = "256",
    runtimes: Annotated[
        list[str] | None, typer.Option("--runtime", metavar="NAME", help="Only this one; may be repeated.")
    ] = None,
    data_dir: DataDir = DATA,
    as_json: Json = False,
) -> None:
    """Prove that NET.onnx is the network in FILE. Exit code 5 if it is not."""
    from compressor import printing, single

    verdict = single.verify_file(
        file, onnx, data_dir, model=model, data=data, samples=samples, runtimes=runtimes or ()
    )
    printing.verdict(verdict, as_json)
    single.refuse(verdict)
    if not as_json:
        after("compressor", "show", str(onnx))
