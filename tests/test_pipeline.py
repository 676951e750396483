import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from job import NO_EXPORT, RECIPE, write_job

import compressor
from compressor import packed, recipes
from compressor.errors import HostError, InputError, VerificationError
from compressor.files import sha256
from compressor.packed import reader
from compressor.records import locked
from compressor.runs import Run

SCORED = ("prune.method=magnitude", "tune.start=trained")


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """One whole walk, verification and all, for the tests that only look."""
    folder = tmp_path_factory.mktemp("walk")
    recipe = write_job(folder, RECIPE + 'tied = true\n[verify]\nruntimes = ["ort_cpu"]\n')
    report = compressor.run(recipe, out=folder / "out")
    return folder / "out", report


def run(folder: Path, *sets: str, out: str = "out", text: str = RECIPE):
    recipe = folder / "job.toml"
    if not recipe.exists():
        write_job(folder, text)
    return compressor.run(recipe, out=folder / out, sets=(*NO_EXPORT, *sets))


def test_a_run_folder_holds_what_the_design_says(walked):
    folder, _ = walked
    for name in ("recipe.toml", "environment.json", "log.jsonl", "start.safetensors", "model.safetensors",
                 "model.onnx", "model.dense.onnx", "report.json", "report.html"):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    assert not (folder / "checkpoint.pt").exists()
    assert not list(folder.rglob(".*.part"))


def test_the_report_has_the_stable_keys(walked):
    folder, report = walked
    assert json.loads((folder / "report.json").read_text())["accuracy"] == report["accuracy"]
    assert list(report) == ["version", "recipe", "environment", "density", "cut_off", "accuracy",
                            "accuracy_samples", "accuracy_epochs", "validation", "rounds", "epochs", "transforms",
                            "bytes", "layers", "verification"]  # fmt: skip
    assert report["rounds"] == []
    assert report["validation"] == {}
    assert set(report["accuracy"]) == {"dense", "asni1", "final"}
    assert {"dense", "gzip", "packed", "bound", "onnx_dense", "onnx_compact", "formats"} <= set(
        report["bytes"]
    )
    assert set(report["density"]) == {"asked", "kept", "total", "all_parameters"}
    assert set(report["layers"][0]) == {"name", "shape", "kept", "total", "format", "bytes"}
    assert [epoch["stage"] for epoch in report["epochs"]] == ["dense"] * 4 + ["prune"] * 4 + ["tune"] * 3


def test_what_is_reported_is_counted_in_the_files(walked):
    folder, report = walked
    mask = packed.unpack_mask(folder / "model.safetensors")
    assert report["density"]["kept"] == sum(int(m.sum()) for m in mask.values())
    assert report["bytes"]["packed"] == (folder / "model.safetensors").stat().st_size
    assert report["bytes"]["onnx_compact"] == (folder / "model.onnx").stat().st_size


def test_a_tied_run_ships_two_levels_per_layer(walked):
    folder, _ = walked
    tensors = reader.parse(folder / "model.safetensors").tensors.values()
    assert all(one.levels is not None for one in tensors if one.role == "sparse")


def test_no_path_is_in_report_or_artefacts(walked):
    folder, _ = walked
    here = str(folder.parent).encode()
    for path in folder.glob("*.safetensors"), folder.glob("*.onnx"), folder.glob("report.*"):
        assert not [p for p in path if here in p.read_bytes()]


def test_a_finished_run_is_not_run_again(walked, monkeypatch):
    folder, report = walked
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*onnx")}
    events = []
    again = compressor.run(folder.parent / "job.toml", out=folder, on_event=events.append)
    assert again["accuracy"] == report["accuracy"]
    assert [event["stage"] for event in events if event["event"] == "stage"] == []
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.*onnx")}


def test_the_resolved_recipe_walks_to_the_same_bytes(tmp_path):
    run(tmp_path)
    folder = tmp_path / "out"
    compressor.run(folder / "recipe.toml", out=tmp_path / "again")
    for name in ("model.safetensors", "start.safetensors", "stages/dense.safetensors"):
        assert sha256(folder / name) == sha256(tmp_path / "again" / name)


def test_a_changed_setting_runs_its_stage_and_those_after_it_only(tmp_path):
    run(tmp_path)
    events = []
    compressor.run(
        tmp_path / "job.toml",
        out=tmp_path / "out",
        sets=(*NO_EXPORT, "tune.epochs=2"),
        on_event=events.append,
    )
    assert [event["stage"] for event in events if event["event"] == "stage"] == ["tune", "pack", "report"]
    assert [event["stage"] for event in events if event["event"] == "kept"] == ["dense", "prune"]


def test_a_damaged_output_is_made_again(tmp_path):
    run(tmp_path)
    model = tmp_path / "out" / "model.safetensors"
    good = model.read_bytes()
    model.write_bytes(good[:-1] + b"x")
    run(tmp_path)
    assert model.read_bytes() == good


def test_changed_data_runs_everything_again(tmp_path):
    run(tmp_path)
    first = sha256(tmp_path / "out" / "model.safetensors")
    arrays = dict(np.load(tmp_path / "data.npz"))
    arrays["x_train"][1] += 1
    np.savez(tmp_path / "data.npz", **arrays)
    run(tmp_path)
    assert sha256(tmp_path / "out" / "model.safetensors") != first


@pytest.mark.parametrize("start", ["trained", "init", "rewind", "levels"])
def test_every_start_of_tune_keeps_the_mask_of_prune(tmp_path, start):
    sets = ("tune.rewind_to=0.5",) if start == "rewind" else ()
    report = run(tmp_path, "prune.method=magnitude", f"tune.start={start}", *sets)
    folder = tmp_path / "out"
    before = packed.unpack_mask(folder / "stages/prune.safetensors")
    after = packed.unpack_mask(folder / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert set(report["accuracy"]) == {"dense", "pruned", "final"}
    assert (folder / "stages/rewind.safetensors").exists() == (start == "rewind")
    assert (folder / "start.safetensors").exists() == (start == "levels")


def test_rewinding_starts_from_the_early_weights(tmp_path):
    run(tmp_path, "prune.method=magnitude", "tune.start=rewind", "tune.rewind_to=0")
    recipe = recipes.load(tmp_path / "job.toml")
    random_start = Run(recipe, tmp_path, tmp_path).network().state_dict()
    early = packed.unpack(tmp_path / "out" / "stages/rewind.safetensors")
    assert all(torch.equal(early[name], random_start[name]) for name in early)


def test_given_weights_are_measured_and_are_the_reference(tmp_path):
    run(tmp_path)
    dense = tmp_path / "out" / "stages/dense.safetensors"
    sets = (*NO_EXPORT, *SCORED, "dense.enabled=false", f"model.weights={dense}")
    report = compressor.run(tmp_path / "job.toml", out=tmp_path / "given", sets=sets)
    assert set(report["accuracy"]) == {"given", "dense", "pruned", "final"}
    assert report["accuracy"]["given"] == report["accuracy"]["dense"]
    assert report["recipe"]["model"]["weights"] == "dense.safetensors"


def test_without_tune_the_pruned_network_ships(tmp_path):
    report = run(tmp_path, "prune.method=random", "tune.enabled=false")
    assert report["accuracy"]["final"] == report["accuracy"]["pruned"]
    assert not (tmp_path / "out/stages/tune.safetensors").exists()


def test_excluded_weights_stay_dense(tmp_path):
    report = run(tmp_path, *SCORED, "prune.exclude=fc3*")
    names = {layer["name"] for layer in report["layers"] if layer["kept"] < layer["total"]}
    assert names == {"fc1.weight", "fc2.weight"}


def test_a_sweep_has_a_folder_each_and_trains_the_dense_network_once(tmp_path):
    write_job(tmp_path)
    events = []
    reports = compressor.run(
        tmp_path / "job.toml",
        out=tmp_path / "out",
        sets=(*NO_EXPORT, "prune.density=0.2,0.1"),
        on_event=events.append,
    )
    assert [report["density"]["asked"] for report in reports] == [0.2, 0.1]
    assert [event["stage"] for event in events if event["event"] == "stage"].count("dense") == 1
    for name in ("prune.density=0.2", "prune.density=0.1"):
        assert (tmp_path / "out" / name / "report.html").exists()


def test_a_dry_run_writes_nothing_and_counts_exactly(tmp_path):
    write_job(tmp_path)
    plan = compressor.run(tmp_path / "job.toml", out=tmp_path / "out", sets=NO_EXPORT, dry_run=True)
    assert not (tmp_path / "out").exists()
    assert (plan["total"], plan["kept"], plan["exact"]) == (41200, 2060, False)
    assert plan["bytes"]["packed"] < plan["bytes"]["dense"]
    assert plan["epochs"] == {"dense": 4, "prune": 4, "tune": 3}


def test_a_dry_run_of_a_scoring_method_names_the_very_layers(tmp_path):
    sets = ("prune.method=magnitude", "dense.enabled=false")
    report = run(tmp_path, *sets)
    plan = compressor.run(tmp_path / "job.toml", sets=(*NO_EXPORT, *sets), dry_run=True)
    assert plan["exact"]
    kept = {layer["name"]: layer["kept"] for layer in report["layers"]}
    assert all(layer["kept"] == kept[layer["name"]] for layer in plan["layers"])


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("prune.method=magnitud",), 'unknown method "magnitud"; did you mean "magnitude"'),
        (("pack.format=crs",), 'unknown .* "crs"; did you mean "csr"'),
        (("model.name=lenet-300-10",), 'did you mean "lenet-300-100"'),
        (("data.name=npz:absent.npz",), "absent.npz"),
        (("model.weights=absent.th",), "absent.th"),
        (("prune.epochs=2",), "at least 2 prunings"),
        (("prune.scope=layer",), "asni ranks the whole network"),
        (("prune.exclude=conv*",), "conv"),
        (("prune.density=1e-6",), "each needs at least one"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, sets, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, *sets)
    assert not (tmp_path / "out").exists()


NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, outputs=4):
        super().__init__()
        self.fc = nn.Linear(36, outputs)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Two(Net):
    def forward(self, x, y):
        return self.fc(x.flatten(1) + y)


class Wide(Net):
    def forward(self, x):
        return self.fc(x.flatten(1))[:, None]


class Dictionary(Net):
    def forward(self, x):
        return {"out": self.fc(x.flatten(1))}


few = lambda: Net(3)
half = lambda: Net().half()
double = lambda: Net().double()
frozen = lambda: Net().requires_grad_(False)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("few", "has 3 outputs, but .* has the label 3 in its training set"),
        ("half", "float16, the inputs are float32"),
        ("double", "float64, the inputs are float32"),
        ("frozen", "has nothing to train"),
        ("Two", "does not run on inputs of shape .*missing 1 required positional argument"),
        ("Wide", r"outputs of shape \(2, 1, 4\)"),
        ("Dictionary", "its forward gives dict"),
    ],
)
def test_a_network_is_tried_before_anything_is_trained(tmp_path, name, message):
    (tmp_path / "net_tried.py").write_text(NET)
    with pytest.raises(InputError, match=message) as caught:
        run(tmp_path, f"model.name=net_tried:{name}")
    assert str(caught.value).startswith(f"net_tried:{name}: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("split", "label", "message"), [("train", 10**9, "no class number"), ("test", 37, "label 37")]
)
def test_a_label_that_no_output_is_for_is_refused(tmp_path, split, label, message):
    write_job(tmp_path)
    (tmp_path / "net_tried.py").write_text(NET)
    arrays = dict(np.load(tmp_path / "data.npz"))
    arrays[f"y_{split}"][0] = label
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=message):
        run(tmp_path, "model.name=net_tried:Net")


def test_two_levels_are_not_asked_of_a_network_without_them(tmp_path):
    with pytest.raises(InputError, match=r"\[tune\] tied = true"):
        run(tmp_path, "pack.format=asni2")


def test_a_second_process_in_the_folder_gets_a_clear_error(tmp_path):
    with (
        locked(tmp_path / "out"),
        pytest.raises(HostError, match="another process is running in this folder"),
    ):
        run(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_host_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot be written"):
        run(tmp_path, out="file/out")


def test_an_export_that_is_not_the_packed_network_fails_and_is_reported(tmp_path, monkeypatch):
    import exporters
    from compressor.stages import ship

    real = exporters.export

    def sabotaged(model, path, *args, **kwargs):
        with torch.no_grad():
            model.fc1.bias[0] += 1
        real(model, path, *args, **kwargs)

    write_job(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ship.exporters, "export", sabotaged, raising=False)
        with pytest.raises(VerificationError, match=r"fc1\.bias"):
            compressor.run(tmp_path / "job.toml", out=tmp_path / "out", sets=["verify.runtimes=ort_cpu"])
    assert not json.loads((tmp_path / "out/report.json").read_text())["verification"]["passed"]
    assert not (tmp_path / "out/stages/verify.json").exists()


def test_a_start_file_trains_to_the_run_s_bits_in_another_folder(tmp_path):
    from compressor import single

    run(tmp_path, "tune.start=levels")
    out = tmp_path / "out"
    other = tmp_path / "other"
    other.mkdir()
    (other / "start.safetensors").write_bytes((out / "start.safetensors").read_bytes())
    alone = single.context(other / "start.safetensors", Path("data"), recipe=str(out / "recipe.toml"))
    sizes, accuracy = single.tune_file(alone, other / "start.safetensors", other / "tuned.safetensors")
    assert sha256(other / "tuned.safetensors") == sha256(out / "model.safetensors")
    assert accuracy == json.loads((out / "report.json").read_text())["accuracy"]["final"]
    assert sizes.file == (other / "tuned.safetensors").stat().st_size


def test_the_environment_is_told_without_names_or_paths(walked):
    folder, _ = walked
    around = json.loads((folder / "environment.json").read_text())
    assert {"versions", "source", "threads", "device", "seed", "inputs"} <= set(around)
    assert around["threads"] == 1
    assert tomllib.loads((folder / "recipe.toml").read_text())["train"]["threads"] == 1
