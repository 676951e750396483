"""Several methods side by side: overlaps, what is refused, the plot's bytes, and the command."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from compressor.cli import app
from compressor.compare import compare, overlap, plot
from compressor.errors import InputError
from compressor.weights import Mask

NET = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
DATA = (torch.randn(16, 6, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3)


def test_overlap_is_what_both_keep_over_what_either_keeps() -> None:
    one = Mask({"a": torch.tensor([True, True, False]), "b": torch.tensor([True])})
    other = Mask({"a": torch.tensor([True, False, True]), "b": torch.tensor([True])})
    assert overlap(one, other) == 0.5
    assert overlap(one, one) == 1.0
    nothing = Mask({"a": torch.zeros(3).bool(), "b": torch.zeros(1).bool()})
    assert overlap(one, nothing) == 0.0


def test_every_method_keeps_as_many_and_overlaps_with_itself() -> None:
    found = compare(NET, ["magnitude", "snip", "synflow"], density=0.5, data=DATA)
    assert {mask.kept for mask in found.masks.values()} == {36}
    table = found.overlaps()
    assert all(table[name][name] == 1.0 for name in table)
    assert table["snip"]["magnitude"] == table["magnitude"]["snip"]


def test_a_method_that_collapses_is_told_beside_the_others_and_all_of_them_is_an_error() -> None:
    net = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    net[0].weight.data.mul_(1e-3)  # magnitude keeps none of them; paths do not care which layer is small
    found = compare(net, ["magnitude", "synflow"], density=0.1, data=DATA)
    assert list(found.masks) == ["synflow"]
    assert found.refused["magnitude"].startswith("layer collapse by magnitude")
    with pytest.raises(InputError, match="layer collapse by magnitude"):
        compare(net, ["magnitude"], density=0.1, data=DATA)


@pytest.mark.parametrize(
    ("names", "message"), [(["snip", "snip"], "named twice"), ([], "no method"), (["snp"], "did you mean")]
)
def test_methods_that_are_not_there_or_twice_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(NET, names, density=0.5, data=DATA)


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_plot_has_the_same_bytes_every_time(tmp_path: Path, ending: str) -> None:
    found = compare(NET, ["magnitude", "snip"], density=0.5, data=DATA)
    for name in ("a", "b"):
        plot(found, tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    with pytest.raises(InputError, match="a plot ends in"):
        plot(found, tmp_path / "a.txt")


def test_the_command_prints_the_table_and_writes_the_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--model", "lenet-300-100", "--data", "digits", "--density", "0.1", "--out", "plot.svg"]
    done = CliRunner().invoke(app, ["prune", "--compare", "magnitude,random", *options, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found["kept"]) == set(found["overlap"]) == {"magnitude", "random"}
    assert sum(found["kept"]["random"].values()) == 5020
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
