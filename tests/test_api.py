"""The public API: everything in __all__ resolves, and importing the packages imports neither torch nor numpy."""

import subprocess
import sys

import pytest

import compressor
import exporters


@pytest.mark.parametrize("package", [compressor, exporters])
def test_every_public_name_resolves_and_is_documented(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        value = getattr(package, name)
        assert name == "__version__" or value.__doc__


@pytest.mark.parametrize("package", [compressor, exporters])
def test_an_unknown_name_is_an_attribute_error(package: object) -> None:
    assert not hasattr(package, "no_such_name")


def test_importing_the_packages_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, compressor, exporters; print([m for m in ('torch', 'numpy', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_carry_their_exit_codes() -> None:
    codes = {
        compressor.InputError: 3,
        compressor.FormatError: 3,
        compressor.HostError: 4,
        compressor.VerificationError: 5,
    }
    assert all(
        error.exit_code == code and issubclass(error, compressor.CompressorError)
        for error, code in codes.items()
    )
