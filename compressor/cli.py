"""The command line: parse, call the library, print. Heavy imports stay inside the commands (DESIGN §7)."""

import errno
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from compressor.commands import (
    DATA,
    DataDir,
    Json,
    Sets,
    after,
    export,
    placed,
    prune,
    tune,
    verify,
)
from compressor.errors import CompressorError, HostError, printable
from compressor.file_commands import import_, pack, unpack

INTERRUPTED = 130


class _Commands(TyperGroup):
    """The one place where an exception becomes a sentence and an exit code."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Run, and find out in time whether what was printed arrives."""
        try:
            try:
                return super().main(*args, **more)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except OSError as error:
            if error.filename is not None:
                raise
            # What still waits to be written would fail once more at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if error.errno == errno.EPIPE:
                sys.exit(1)
            typer.echo(f"compressor: the output cannot be written ({error.strerror})", err=True)
            sys.exit(HostError.exit_code)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Take --traceback wherever it stands."""
        ctx.obj = "--traceback" in args
        return super().parse_args(ctx, [arg for arg in args if arg != "--traceback"])

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run a command."""
        with suppress(ValueError):  # a thread other than the main one gets no signals
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing half-written then either
        try:
            return super().invoke(ctx)
        except CompressorError as error:
            if ctx.obj:
                traceback.print_exc()
            typer.echo(printable(f"compressor: {error}"), err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            hint = "; the same command goes on from here" if ctx.invoked_subcommand == "run" else ""
            typer.echo(f"compressor: interrupted{hint}", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    help="Make neural networks sparse and small, and ship them with proof.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from compressor import __version__

        typer.echo(f"compressor {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    trace: Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")] = False,
) -> None:
    """Make neural networks sparse and small, and ship them with proof."""


@app.command()
def run(
    *,
    recipe: Annotated[str, typer.Argument(metavar="NAME|FILE.toml", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run folder; default: runs/NAME.")
    ] = None,
    sets: Sets = None,
    data_dir: DataDir = DATA,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be pruned and written; train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Walk a recipe: dense, prune, tune, pack, export, verify, report. Typed again, it goes on."""
    from compressor import pipeline, printing
    from compressor.progress import told

    with told() as listen:
        outcome = pipeline.attempt(
            recipe, out=out, sets=sets or (), data_dir=data_dir, dry_run=dry_run, on_event=listen
        )
    found = outcome.reports
    if found and as_json:
        printing.as_json({"runs": [*found.values()]} if outcome.sweep else next(iter(found.values())))
    elif found and dry_run:
        printing.plans(found, outcome.sweep)
        options = [part for text in sets or () for part in ("--set", text)]
        options += ["--out", str(out)] if out is not None else []
        after("compressor", "run", recipe, *options, *placed(data_dir))
    elif found:
        printing.reports(found, outcome.sweep)
    if outcome.error is not None:
        raise outcome.error


for _command in (prune, tune, pack, unpack, export, verify):
    app.command()(_command)
app.command("import")(import_)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER|NET.onnx", show_default=False)],
    as_json: Json = False,
) -> None:
    """Print what is inside a packed file, a run folder or an ONNX file."""
    from compressor.show import lines, look, succeeding

    found = look(path)
    if as_json:
        import json

        typer.echo(json.dumps(found, indent=1))
        return
    for line in lines(found):
        typer.echo(printable(line))
    after(*succeeding(found, path))


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods."""
    from compressor import printing
    from compressor.methods import METHODS, TRAINING_METHODS

    menu = {name: f"scoring: {printing.first_line(method)}" for name, method in METHODS.items()}
    menu |= {name: f"training: {printing.first_line(method)}" for name, method in TRAINING_METHODS.items()}
    printing.menu(menu, as_json)
    if not as_json:
        after("compressor", "run", "digits", "--set", "prune.method=magnitude")


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the built-in recipes."""
    from compressor import printing
    from compressor.recipes import menu

    printing.menu(menu(), as_json)
    if not as_json:
        after("compressor", "run", "digits", "--dry-run")


@app.command()
def reader() -> None:
    """Print reader.py, which reads packed files with numpy alone; keep it beside a deployment."""
    typer.echo((Path(__file__).parent / "packed" / "reader.py").read_text(encoding="utf-8"), nl=False)
