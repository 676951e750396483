"""Recipes on disk: built-in ones by name, TOML in and out, overrides and sweeps from the command line."""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from compressor.errors import InputError, unknown
from compressor.files import read_bytes
from compressor.recipe import Recipe, Train
from compressor.recipes import limits
from compressor.recipes.overrides import apply, choices
from compressor.recipes.values import STAGES, Table, check_keys, check_missing, given, keys, sections

__all__ = ["dumps", "load", "menu", "name_of", "parse", "sweep", "table_of"]

_FOLDER = Path(__file__).parent


def menu() -> dict[str, str]:
    """Return the built-in recipes: name and the first line of the comment each opens with."""
    lines = {path.stem: path.read_text(encoding="utf-8") for path in sorted(_FOLDER.glob("*.toml"))}
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in lines.items()}


def name_of(source: str | Path | Recipe) -> str:
    """Return the name that a run of this recipe goes by (its run folder's name)."""
    return "recipe" if isinstance(source, Recipe) else Path(source).stem


def load(source: str | Path | Recipe, sets: Sequence[str] = ()) -> Recipe:
    """Return one recipe. Raises InputError, also for overrides that are a sweep."""
    members = sweep(source, sets)
    if len(members) > 1:
        raise InputError(f"{', '.join(sets)} is a sweep of {len(members)} runs where one is wanted")
    return members[0][1]


def sweep(source: str | Path | Recipe, sets: Sequence[str] = ()) -> list[tuple[str, Recipe]]:
    """Return every run that the overrides ask for: ("prune.density=0.1", recipe); one run: ("", recipe).

    source: a built-in name, a file, or a recipe. Raises InputError (which names file, section and key).
    """
    table, where, folder = _read(source)
    names: list[list[tuple[str, str, Any]]] = [choices(text) for text in sets]
    members = []
    for combination in itertools.product(*names):
        label = ",".join(
            text for (_, text, _), options in zip(combination, names, strict=True) if len(options) > 1
        )
        members.append((label, parse(apply(table, combination), where, folder)))
    return members


def parse(table: Table, where: str, folder: Path) -> Recipe:
    """Return the recipe of a TOML table.

    A [dense] section turns the stage on, unless it only asks for the control of weights that are given.
    Raises InputError: unknown keys before missing ones, types before ranges.
    """
    check_keys(table, where)
    check_missing(table, where)
    tables = {name: table.get(name, {}) for name in sections()}
    parts = {name: given(kind, tables[name], f"{where}: [{name}]") for name, kind in sections().items()}
    if "dense" in table:
        parts["dense"].setdefault("enabled", _trains_dense(tables))
    if "tune" not in table and parts["prune"].get("method") == "edge-popup":
        parts["tune"]["enabled"] = False  # its network is finished
    train = Train(**parts["train"])
    for name in STAGES:
        replays = name == "tune" and parts[name].get("replay_from") is not None
        base = parts["dense"]["train"] if replays else train
        parts[name]["train"] = replace(base, **given(Train, tables[name], f"{where}: [{name}]"))
    built = {name: kind(**parts[name]) for name, kind in sections().items()}
    recipe = _anchored(Recipe(**built, **given(Recipe, table, f"{where}:")), folder)
    limits.check(recipe, where)
    return recipe


def _trains_dense(tables: Mapping[str, Table]) -> bool:
    """Say whether a [dense] section is about a dense network of its own, from which something starts."""
    early = tables["prune"].get("weights") == "dense" or tables["tune"].get("start") == "rewind"
    return early or set(tables["dense"]) != {"control"} or not tables["model"].get("weights")


def table_of(recipe: Recipe) -> Table:
    """Return the recipe as plain TOML values, each stage with all of its training keys."""
    table: Table = asdict(recipe)
    for name in STAGES:
        table[name] |= table[name].pop("train")
    return table


def dumps(recipe: Recipe) -> str:
    """Return the recipe as TOML: every default written out, a stage's training keys where they differ.

    What is absent stays absent: TOML has no word for nothing.
    """
    import tomlkit

    table, whole = table_of(recipe), table_of(recipe)
    for name in STAGES:
        own = keys(type(getattr(recipe, name)))
        known = ["train", "dense"] if name == "tune" and recipe.tune.replay_from is not None else ["train"]
        table[name] = {
            k: v
            for k, v in whole[name].items()
            if v is not None and (k in own or all(v != whole[base][k] for base in known))
        }
    document = tomlkit.document()
    document.add(tomlkit.comment("resolved by compressor: every setting of this run, defaults written out"))
    for key, value in sorted(table.items(), key=lambda item: isinstance(item[1], dict)):
        document.add(key, tomlkit.item(_listed(value)))
    return tomlkit.dumps(document)


def _read(source: str | Path | Recipe) -> tuple[Table, str, Path]:
    """Return the TOML table, what to call it in messages, and the folder its relative paths start in."""
    if isinstance(source, Recipe):
        return tomllib.loads(dumps(source)), "recipe", Path(source.folder)
    built_in = _FOLDER / f"{source}.toml"
    text = str(source)
    is_name = isinstance(source, str) and "/" not in text and not text.endswith(".toml")
    if is_name and not built_in.is_file() and not Path(text).is_file():
        raise unknown("recipe", text, menu())
    path = built_in if is_name and built_in.is_file() else Path(source)
    where = text if path == built_in else str(path)
    try:
        table = tomllib.loads(read_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: not valid TOML: {error}") from error
    return table, where, Path.cwd() if path == built_in else path.resolve().parent


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    """Make the paths of a recipe absolute, so that its resolved copy points to the same files."""
    folder = (folder / recipe.folder).resolve()
    weights = (
        str((folder / Path(recipe.model.weights).expanduser()).resolve()) if recipe.model.weights else ""
    )
    kind, colon, path = recipe.data.name.partition(":")
    name = recipe.data.name
    if colon and kind in {"npz", "folder"}:
        name = f"{kind}:{(folder / Path(path).expanduser()).resolve()}"
    return replace(
        recipe,
        folder=str(folder),
        model=replace(recipe.model, weights=weights),
        data=replace(recipe.data, name=name),
    )


def _listed(value: Any) -> Any:
    """Return tuples as the lists that TOML has, at any depth."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value
