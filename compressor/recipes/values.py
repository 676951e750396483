"""From TOML values to the recipe's dataclasses: a key has the type of its field, and nothing is guessed."""

import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from compressor.errors import InputError, unknown
from compressor.recipe import Recipe, Train

Table = dict[str, Any]

STAGES = ("dense", "prune", "tune")  # the sections that may override any key of [train]
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
}


def sections() -> dict[str, type[Any]]:
    """Return the sections of a recipe and the dataclass of each, in the order of the file."""
    hints = get_type_hints(Recipe)
    return {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}


def keys(kind: type) -> dict[str, Any]:
    """Return the plain keys of a section (its own `train` is not one of them) and their types."""
    return {name: hint for name, hint in get_type_hints(kind).items() if not is_dataclass(hint)}


def keys_of(section: str) -> dict[str, Any]:
    """Return all keys that may stand in a section, those of [train] included where they may."""
    own = keys(sections()[section])
    return own | keys(Train) if section in STAGES else own


def check_keys(table: Mapping[str, Any], where: str) -> None:
    """Raise InputError for the first section or key that no recipe has, with the nearest one that exists."""
    known = sections()
    top = [*keys(Recipe), *known]
    for name, value in table.items():
        if name not in top:
            raise _misplaced(where, name, top)
        if name not in known:
            continue
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: {name} must be a section, [{name}], not {_shown(value)}")
        for key in value:
            if key not in keys_of(name):
                raise InputError(f"{where}: {unknown(f'key in [{name}]', key, keys_of(name))}")


def check_missing(table: Mapping[str, Any], where: str) -> None:
    """Raise InputError for the first key without a default that is not there."""
    for section, kind in sections().items():
        for item in fields(kind):
            needed = item.default is MISSING and item.default_factory is MISSING
            if needed and item.name not in table.get(section, {}):
                raise InputError(
                    f'{where}: [{section}] {item.name} is missing; write [{section}] {item.name} = "..."'
                )


def typed(value: Any, hint: Any, name: str) -> Any:
    """Return the value as its field wants it (a list as a tuple, 1 as 1.0). Raises InputError."""
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{name} = {_shown(value)} must be a list, [...]")
        return tuple(typed(item, get_args(hint)[0], name) for item in value)
    if get_origin(hint) in (Union, types.UnionType):
        allowed = [kind for kind in get_args(hint) if kind is not type(None)]
        if len(allowed) == 1:  # TOML has no word for nothing: an absent key stays None
            return typed(value, allowed[0], name)
        if type(value) not in allowed:
            raise InputError(
                f"{name} = {_shown(value)} must be {' or '.join(_KINDS[kind] for kind in allowed)}"
            )
        return value
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise InputError(f"{name} = {_shown(value)} must be {_KINDS[hint]}")
    if hint is float and not math.isfinite(value):
        raise InputError(f"{name} = {value} must be finite")
    return value


def given(kind: type, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the keys of a dataclass that stand in a section, typed."""
    hints = keys(kind)
    return {
        name: typed(table[name], hint, f"{where} {name}") for name, hint in hints.items() if name in table
    }


def _misplaced(where: str, name: str, top: Iterable[str]) -> InputError:
    """A key outside its section is the commonest slip in TOML: name the section it belongs to."""
    for section in sections():
        if name in keys_of(section):
            return InputError(f"{where}: {name} belongs into a section, such as [{section}] {name} = ...")
    return InputError(f"{where}: {unknown('section or key', name, top)}")


def _shown(value: Any) -> str:
    """Return a value as the user wrote it, near enough."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
