"""What a run depends on beyond its recipe: the user's modules, those they import, and every input."""

import sys
from pathlib import Path

import pytest
import torch

from compressor.recipes import parse
from compressor.runs import Run

MODULE = """
import torch
from torch import nn
from {helper} import widen

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(8, widen()), nn.Linear(widen(), 3))

def data():
    x = torch.load({file!r})
    y = torch.arange(len(x)) % 3
    return (x, y), (x[:9], y[:9])
"""


@pytest.fixture
def job(tmp_path: Path) -> Run:
    name = f"sources_{tmp_path.name}"
    (tmp_path / f"{name}_helper.py").write_text("def widen():\n    return 5\n")
    (tmp_path / f"{name}.py").write_text(MODULE.format(helper=f"{name}_helper", file=str(tmp_path / "x.pt")))
    torch.save(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)), tmp_path / "x.pt")
    table = {"model": {"name": f"{name}:net"}, "data": {"name": f"{name}:data"}}
    return Run(parse(table, "job.toml", tmp_path), tmp_path / "out", tmp_path)


def again(run: Run) -> dict[str, str]:
    for name in [name for name in sys.modules if name.startswith("sources_")]:
        del sys.modules[name]
    return Run(run.recipe, run.folder, Path()).inputs()


def test_a_module_that_the_user_s_module_imports_is_an_input(job: Run, tmp_path: Path) -> None:
    before = job.inputs()
    assert again(job) == before
    helper = next(tmp_path.glob("*_helper.py"))
    helper.write_text("def widen():\n    return 6\n")
    assert again(job) != before


def test_one_changed_value_anywhere_in_the_data_is_noticed(job: Run, tmp_path: Path) -> None:
    before = job.inputs()
    x = torch.load(tmp_path / "x.pt")
    x[211, 3] += 1
    torch.save(x, tmp_path / "x.pt")
    assert again(job) != before
