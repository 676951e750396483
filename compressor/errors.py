"""What can go wrong, as the user sees it.

CompressorError
├── InputError          exit 3: a file, data set, recipe or argument that the user gave
├── FormatError         exit 3: a packed file or an ONNX file that is damaged or not ours
├── HostError           exit 4: disk, permission, lock, missing package or device
└── VerificationError   exit 5: what would be shipped is not the network that was packed

A message is one sentence: the name of the thing, what is wrong, what would be right.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class CompressorError(Exception):
    """The parent of every error that is not a bug of ours."""

    exit_code = 1


class InputError(CompressorError):
    """The user gave something that cannot be used."""

    exit_code = 3


class CollapseError(InputError):
    """A mask through which nothing can flow."""


class FormatError(CompressorError):
    """The bytes of a file are not what its format demands."""

    exit_code = 3


class HostError(CompressorError):
    """The machine refuses: disk full, no permission, locked, a package or device is missing."""

    exit_code = 4


class VerificationError(CompressorError):
    """The exported network is not the packed one."""

    exit_code = 5


def printable(text: str) -> str:
    """Return text as a terminal may show it: what is no character to read, as an escape sequence of Python's."""
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not on a menu, with the nearest name on it."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    if near:
        return InputError(f'unknown {what} "{name}"; did you mean "{near[0]}"?')
    return InputError(f'unknown {what} "{name}"; known are {", ".join(names)}')


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names for a message, not more than one can read."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
