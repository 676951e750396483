"""Code that is imported late: torchvision, and the functions of the user's own modules."""

import importlib
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.errors import HostError, InputError, unknown


def torchvision() -> Any:
    """Return torchvision. Raises HostError if it is missing or was built for another torch."""
    try:
        import torchvision as package
    except (ImportError, RuntimeError, OSError) as error:
        raise HostError(
            f"torchvision: cannot be imported ({error}); install the build made for this torch"
        ) from error
    return package


def factory(name: str, search: Sequence[Path]) -> Callable[..., Any]:
    """Return the function that `package.module:function` names.

    Raises InputError if the module or the function is not there, or the module does not import.
    """
    module, _, attribute = name.partition(":")
    with _searching(search):
        _forget_namesake(module.partition(".")[0], search)
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module}.".startswith(f"{error.name}."):
                places = (
                    ", ".join(dict.fromkeys(str(Path(folder).resolve()) for folder in search))
                    or "the installed packages"
                )
                raise InputError(f"{name}: there is no module {module} in {places}") from error
            raise InputError(f"{name}: {module} needs the package {error.name}; install it") from error
        except Exception as error:
            raise InputError(f"{name}: {module} does not import ({type(error).__name__}: {error})") from error
    if not callable(getattr(found, attribute, None)):
        names = [key for key, value in vars(found).items() if callable(value) and key[:1] != "_"]
        raise unknown(f"function in {module}", attribute, names)
    return getattr(found, attribute)  # type: ignore[no-any-return]


def call(name: str, function: Callable[..., Any], search: Sequence[Path], **arguments: Any) -> Any:
    """Return function(**arguments), with `search` on sys.path. Raises InputError for whatever it raises."""
    with _searching(search):
        try:
            return function(**arguments)
        except Exception as error:
            raise InputError(f"{name}: raised {type(error).__name__}: {error}") from error


@contextmanager
def _searching(search: Sequence[Path]) -> Iterator[None]:
    before = list(sys.path)
    sys.path[:0] = [str(Path(folder).resolve()) for folder in search]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _forget_namesake(package: str, search: Sequence[Path]) -> None:
    """Drop an imported module of this name if the folders of this search hold another one.

    Two recipes in two folders, each with its own net.py, may run in one process.
    """
    folders = [str(Path(folder).resolve()) for folder in search]
    spec = importlib.machinery.PathFinder.find_spec(package, folders)
    loaded = sys.modules.get(package)
    if spec is None or loaded is None or spec.origin == getattr(loaded, "__file__", None):
        return
    for key in [key for key in sys.modules if key == package or key.startswith(f"{package}.")]:
        del sys.modules[key]
