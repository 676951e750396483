"""The README word for word: every command and every code block that needs no download is run."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

README = (Path(__file__).parents[1] / "README.md").read_text()
NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README says you have: net.py, net.pt, data.npz, pruned.pt."""
    place = tmp_path_factory.mktemp("readme")
    (place / "net.py").write_text(NET)
    scope: dict[str, object] = {}
    exec(NET, scope)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = scope["net"]()  # type: ignore[operator]
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, place / "net.pt")
    with torch.no_grad():
        model[4].weight[model[4].weight.abs() < 0.03] = 0
    torch.save(model.state_dict(), place / "pruned.pt")
    draw = np.random.default_rng(0)
    y = draw.integers(0, 10, 400)
    x = np.clip(draw.normal(100, 20, (400, 1, 8, 8)) + 10 * y[:, None, None, None], 0, 255).astype(np.uint8)
    np.savez(place / "data.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    (place / "job.toml").write_text(blocks("toml")[0])
    return place


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("compressor ")]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_does_what_it_says(command: str, folder: Path) -> None:
    program = Path(sys.executable).with_name("compressor")
    words = [str(program), *shlex.split(command)[1:]]
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path), torch.random.fork_rng():
        scope: dict[str, object] = {}
        for block in blocks("python"):
            exec(block, scope)
    assert (tmp_path / "tiny.safetensors").stat().st_size < 3000


def test_every_make_target_of_the_readme_is_there() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in set(
        re.findall(r"make ([a-z-]+)`", README) + re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE)
    ):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
