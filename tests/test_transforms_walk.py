"""The transforms as the recipe and the command line ask for them, and what the reports say of them."""

import json
import shutil

import pytest
import torch
from job import NO_EXPORT, RECIPE, write_job
from rich.console import Console
from typer.testing import CliRunner

import compressor
from compressor import figures, report
from compressor.cli import app

ASKED = "\n[pack]\nfold_dead = true\norder_units = true\n"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with job.toml, data.npz, a run whose network was transformed, and one whose was not."""
    folder = tmp_path_factory.mktemp("done")
    recipe = write_job(folder, RECIPE + ASKED)
    compressor.run(recipe, out=folder / "with", sets=("verify.runtimes=ort_cpu",))
    off = ("pack.fold_dead=false", "pack.order_units=false")
    compressor.run(recipe, out=folder / "without", sets=(*off, *NO_EXPORT))
    return folder


def told(folder):
    return json.loads((folder / "report.json").read_text())


def call(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def test_the_recipe_s_transforms_are_in_the_file_that_is_verified_and_in_the_report(done):
    with_, without = told(done / "with"), told(done / "without")
    assert without["transforms"] == []
    fold, order = with_["transforms"]
    assert (fold["transform"], order["transform"]) == ("fold_dead", "order_units")
    assert fold["kept"][0] == without["density"]["kept"]
    assert fold["kept"][1] == with_["density"]["kept"] < without["density"]["kept"]
    assert fold["kept"][0] - fold["kept"][1] == sum(layer["dropped"] for layer in fold["layers"])
    assert fold["bytes"][0] == without["bytes"]["packed"]
    assert fold["bytes"][1] == order["bytes"][0]
    assert (
        order["bytes"][1] == with_["bytes"]["packed"] == (done / "with" / "model.safetensors").stat().st_size
    )
    assert with_["verification"]["passed"]
    assert with_["accuracy"]["final"] == without["accuracy"]["final"]
    assert fold["proof"]["samples"] == 256


def test_pages_and_terminal_say_what_each_transform_gave(done):
    found = told(done / "with")
    lines = figures.transforms(found["transforms"])
    fold = found["transforms"][0]
    assert lines[0].startswith(
        f"fold_dead: {fold['kept'][0] - fold['kept'][1]:,} of {fold['kept'][0]:,} kept"
    )
    assert "units moved" in lines[1]
    page = (done / "with" / "report.html").read_text()
    assert all(f"Before packing, {line}." in page for line in lines)
    assert "Before packing" not in (done / "without" / "report.html").read_text()
    with open("/dev/null", "w") as nowhere:
        console = Console(width=300, record=True, file=nowhere)
        console.print(report.summary(found))
    printed = console.export_text()
    assert all(line in printed for line in lines)
    assert "fold_dead" not in report.render_html({})


def test_pack_transforms_a_file_and_the_recipe_beside_it_says_which_network(done, tmp_path):
    source = done / "without" / "model.safetensors"
    out = tmp_path / "small.safetensors"
    printed = call("pack", source, "--fold-dead", "--order-units", "--out", out)
    assert out.read_bytes() == (done / "with" / "model.safetensors").read_bytes()
    assert "fold_dead: " in printed
    assert "left alone: " in printed
    assert "next: compressor show" in printed
    found = json.loads(call("pack", source, "--order-units", "--out", out, "--json"))
    assert [one["transform"] for one in found["transforms"]] == ["order_units"]
    assert found["transforms"][0]["bytes"][1] == found["file"] == out.stat().st_size
    state = compressor.unpack(out)
    assert {n: t.shape for n, t in state.items()} == {
        n: t.shape for n, t in compressor.unpack(source).items()
    }


def test_pack_takes_network_and_data_by_name_and_asks_for_them(done, tmp_path):
    source = tmp_path / "weights.pt"
    state = compressor.unpack(done / "without" / "model.safetensors")
    torch.save(state, source)
    out = tmp_path / "out"
    shutil.copy(done / "data.npz", tmp_path)
    named = ("--model", "lenet-300-100", "--data", f"npz:{tmp_path / 'data.npz'}")
    start = ("pack", source, "--mask-from-zeros", "--out", out)
    call(*start, *named, "--fold-dead")
    assert compressor.sizes(out).file == told(done / "with")["transforms"][0]["bytes"][1]
    assert "say --model NAME and --data NAME" in call(*start, "--fold-dead", code=3)
    assert "are for --fold-dead, --order-units, --values and --biases" in call(*start, *named, code=2)
    assert "--base wants" in call(*start, *named, "--order-units", "--base", source, code=2)
    torch.save({name: tensor.half() for name, tensor in state.items()}, source)
    assert "is torch.float16, in lenet-300-100 torch.float32" in call(*start, *named, "--fold-dead", code=3)


def test_tune_transforms_as_its_recipe_says(done, tmp_path):
    out = tmp_path / "tuned.safetensors"
    start = done / "with" / "stages" / "prune.safetensors"
    recipe = done / "with" / "recipe.toml"
    call("tune", "--start-file", start, "--recipe", recipe, "--out", out)
    assert out.read_bytes() == (done / "with" / "model.safetensors").read_bytes()


def test_what_rounding_does_to_the_outputs_is_told_where_there_is_a_network(done, tmp_path):
    source = done / "without" / "model.safetensors"
    out = tmp_path / "small.safetensors"
    rounded = ("pack", source, "--biases", "float16", "--out", out)
    assert "largest error of the rounding" in call(*rounded)
    found = json.loads(
        call(*rounded, "--model", "lenet-300-100", "--data", f"npz:{done / 'data.npz'}", "--json")
    )
    (told_,) = found["transforms"]
    assert told_["transform"] == "round"
    assert told_["bytes"] == [source.stat().st_size, out.stat().st_size]
    assert told_["bytes"][1] < told_["bytes"][0]
    assert 0 < told_["proof"]["change"] < 0.1
    assert told_["proof"]["samples"] == 256
    (line,) = figures.transforms(found["transforms"])
    assert line.startswith("round: values rounded; ")
    assert "of 256 samples change by at most" in line
