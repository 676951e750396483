"""`--set section.key=value`: TOML values or bare strings; several values for a key of one are a sweep."""

import copy
import tomllib
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from compressor.errors import InputError, unknown
from compressor.recipe import Recipe
from compressor.recipes.values import Table, keys, keys_of, sections

Choice = tuple[str, str, Any]  # the key ("prune.density"), as text ("prune.density=0.1"), the value


def choices(text: str) -> list[Choice]:
    """Return what an override sets, one entry per run. Raises InputError."""
    key, equals, written = text.partition("=")
    key, written = key.strip(), written.strip()
    if not equals or not written:
        raise InputError(f'"{text}": an override is KEY=VALUE, such as prune.density=0.02')
    hint = _hint(key)
    values = _values(written, hint)
    if get_origin(hint) is tuple and not all(isinstance(value, list) for value in values):
        values = [values]
    elif get_origin(hint) is not tuple and len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if not values:
        raise InputError(f'"{text}": an empty list is no value for {key}')
    return [(key, f"{key}={_text(value)}", value) for value in values]


def apply(table: Table, combination: Sequence[Choice]) -> Table:
    """Return a copy of a recipe's table with the chosen values in it."""
    result = copy.deepcopy(table)
    for key, _, value in combination:
        section, dot, name = key.partition(".")
        # A control comes beside a dense stage, it does not bring one.
        absent = {"enabled": False} if key == "dense.control" else {}
        if dot and not isinstance(result.setdefault(section, absent), dict):
            raise InputError(f"{section} must be a section, [{section}]")
        if dot:
            result[section][name] = value
        else:
            result[section] = value
    return result


def _hint(key: str) -> Any:
    """Return the type of the field that a key names. Raises InputError with the nearest key."""
    section, dot, name = key.partition(".")
    if not dot and section in keys(Recipe):
        return keys(Recipe)[section]
    every = [f"{part}.{item}" for part in sections() for item in keys_of(part)]
    if not dot or section not in sections():
        raise unknown("key", key, [*keys(Recipe), *every])
    if name not in keys_of(section):
        raise unknown("key", key, [f"{section}.{item}" for item in keys_of(section)])
    return keys_of(section)[name]


def _values(written: str, hint: Any) -> list[Any]:
    """Return the values between the commas, as TOML where they are TOML, else as bare strings."""
    bare: list[Any] = [item.strip() for item in written.split(",")]
    kinds = get_args(hint) or (hint,)
    try:
        values: list[Any] = tomllib.loads(f"x = [{written}]")["x"]
    except tomllib.TOMLDecodeError:
        return bare
    only_text = kinds[0] is str and not any(isinstance(value, str | list) for value in values)
    return bare if only_text else values


def _text(value: Any) -> str:
    """Return a value as it stands in a sweep's folder name and table."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    return str(value).replace("/", "_")
