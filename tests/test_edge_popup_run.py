"""Edge-popup in a recipe: what it trains, what ships, and what would undo it."""

import pytest
import torch
from job import NO_EXPORT, write_job

import compressor
from compressor import packed
from compressor.errors import InputError
from compressor.files import sha256

TEXT = """
seed = 3

[model]
name = "lenet-300-100"

[data]
name = "npz:data.npz"

[train]
lr = 0.1
batch = 32
epochs = 4
threads = 1
device = "cpu"

[dense]

[prune]
method = "edge-popup"
density = 0.3
"""
WEIGHTS = ("fc1.weight", "fc2.weight", "fc3.weight")


@pytest.fixture
def recipe(tmp_path):
    return write_job(tmp_path, TEXT)


def test_without_a_tune_section_the_pruned_network_ships_with_two_levels_per_layer_and_is_verified(
    recipe, tmp_path
):
    report = compressor.run(recipe, out=tmp_path / "out", sets=["verify.runtimes=ort_cpu"])
    assert [epoch["stage"] for epoch in report["epochs"]] == ["dense"] * 4 + ["prune"] * 4
    assert set(report["accuracy"]) == {"dense", "pruned", "final"}
    assert report["accuracy"]["final"] > 0.6
    assert report["verification"]["passed"]
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert {layers[name]["format"] for name in WEIGHTS} == {"asni2"}
    assert all(layers[name]["kept"] == round(0.3 * layers[name]["total"]) for name in WEIGHTS)
    state = packed.unpack(tmp_path / "out/model.safetensors")
    assert all(not state[name.replace("weight", "bias")].any() for name in WEIGHTS)
    assert not (tmp_path / "out/start.safetensors").exists()


def test_a_run_that_is_interrupted_goes_on_to_the_same_bytes(recipe, tmp_path):
    def interrupt(event):
        if event["event"] == "epoch" and (event["stage"], event["epoch"]) == ("prune", 2):
            raise KeyboardInterrupt

    compressor.run(recipe, out=tmp_path / "whole", sets=NO_EXPORT)
    with pytest.raises(KeyboardInterrupt):
        compressor.run(recipe, out=tmp_path / "out", sets=NO_EXPORT, on_event=interrupt)
    assert (tmp_path / "out/checkpoint.pt").exists()
    events = []
    compressor.run(recipe, out=tmp_path / "out", sets=NO_EXPORT, on_event=events.append)
    assert next(e["epoch"] for e in events if e["event"] == "epoch") in (2, 3)
    assert sha256(tmp_path / "out/model.safetensors") == sha256(tmp_path / "whole/model.safetensors")


@pytest.mark.parametrize("weights", ["dense", "given"])
def test_over_trained_weights_the_kept_ones_are_theirs_and_the_rest_is_a_task_file(recipe, tmp_path, weights):
    dense = tmp_path / "out/stages/dense.safetensors"
    sets = [*NO_EXPORT, f"prune.weights={weights}"]
    if weights == "given":
        compressor.run(recipe, out=tmp_path / "first", sets=[*NO_EXPORT, "prune.weights=dense"])
        dense = tmp_path / "first/stages/dense.safetensors"
        sets += [f"model.weights={dense}", "dense.enabled=false"]
    report = compressor.run(recipe, out=tmp_path / "out", sets=sets)
    assert report["accuracy"]["final"] > 0.6
    model, base = tmp_path / "out/model.safetensors", packed.unpack(dense)
    state, mask = packed.unpack(model), packed.unpack_mask(model)
    assert all(torch.equal(tensor[mask[n]], base[n][mask[n]]) for n, tensor in state.items() if n in mask)
    assert all(torch.equal(tensor, base[n]) for n, tensor in state.items() if n not in mask)
    sizes = packed.pack(state, tmp_path / "task", mask=mask, base=dense)
    assert {one.format for one in sizes.tensors} == {"base"}
    assert sizes.file < 0.12 * sizes.formats["bitmask"]
    assert all(torch.equal(t, state[n]) for n, t in packed.unpack(tmp_path / "task", base=dense).items())


def test_the_scope_is_the_method_s_own_unless_it_is_asked_for(recipe, tmp_path):
    def kept(*sets):
        plan = compressor.run(recipe, sets=[*NO_EXPORT, *sets], dry_run=True)
        return [layer["kept"] / layer["total"] for layer in plan["layers"]]

    assert kept() == pytest.approx([0.3] * 3, abs=1e-3)
    assert kept("prune.scope=erk")[2] == 1.0
    assert kept("prune.method=magnitude") != pytest.approx([0.3] * 3, abs=1e-3)
    assert kept("prune.method=magnitude", "prune.scope=layer") == pytest.approx([0.3] * 3, abs=1e-3)


def test_the_end_of_another_method_s_curve_trains_nothing_again(recipe, tmp_path):
    events = []
    compressor.run(recipe, out=tmp_path / "out", sets=NO_EXPORT)
    compressor.run(recipe, out=tmp_path / "out", sets=[*NO_EXPORT, "prune.end=0.5"], on_event=events.append)
    assert not [event for event in events if event["event"] == "epoch"]


def test_a_dry_run_weighs_mask_and_signs(recipe):
    plan = compressor.run(recipe, sets=NO_EXPORT, dry_run=True)
    assert (plan["exact"], plan["epochs"]) == (False, {"dense": 4, "prune": 4})
    assert plan["bytes"]["packed"] < plan["bytes"]["formats"]["bitmask"] / 4


def test_tuned_at_two_levels_it_stays_at_two_levels(recipe, tmp_path):
    sets = [*NO_EXPORT, "tune.tied=true", "tune.enabled=true", "tune.optimizer=adam", "tune.lr=1e-3"]
    report = compressor.run(recipe, out=tmp_path / "out", sets=sets)
    assert [epoch["stage"] for epoch in report["epochs"]][-1] == "tune"
    assert {layer["format"] for layer in report["layers"] if layer["name"] in WEIGHTS} == {"asni2"}


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["tune.enabled=true"], "would turn the signs and constants of edge-popup into free floats; leave"),
        (["tune.start=levels"], "would turn the signs and constants of edge-popup into free floats"),
        (["tune.tied=true", "tune.start=init"], "would turn the signs and constants"),
        (["pack.format=asni2", "prune.weights=dense"], 'edge-popup with .*"dense" keeps those weights'),
        (["prune.scope=layr"], 'did you mean "layer"'),
        (["prune.density=1e-6"], "each needs at least one"),
        (["prune.method=asni", "prune.scope=layer"], "asni ranks the whole network; leave scope out"),
        (["prune.rounds=3"], "rounds"),
    ],
)
def test_what_would_undo_it_is_refused_before_anything_is_written(recipe, tmp_path, sets, message):
    with pytest.raises(InputError, match=message):
        compressor.run(recipe, out=tmp_path / "out", sets=[*NO_EXPORT, *sets])
    assert not (tmp_path / "out").exists()
