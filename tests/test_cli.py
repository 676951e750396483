import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from job import NO_EXPORT, RECIPE, write_job
from typer.testing import CliRunner

import compressor
from compressor.cli import app
from compressor.packed import reader

PRUNE = ["prune", "--model", "lenet-300-100", "--data", "digits"]
SETS = [part for text in NO_EXPORT for part in ("--set", text)]


def call(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with job.toml, data.npz and a run, not exported, with an ASNI-II start."""
    folder = tmp_path_factory.mktemp("done")
    recipe = write_job(folder, RECIPE + 'start = "levels"\n')
    compressor.run(recipe, out=folder / "run", sets=NO_EXPORT)
    return folder


@pytest.fixture
def weights(tmp_path):
    """A checkpoint with zeros, as another tool leaves it."""
    state = {"fc.weight": torch.randn(6, 4), "fc.bias": torch.randn(6), "norm.weight": torch.ones(6)}
    state["fc.weight"][:, ::2] = 0
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "net.th"
    )
    return tmp_path / "net.th", state


def test_help_and_version_import_neither_torch_nor_numpy():
    for argument in ("--help", "--version"):
        code = (
            "import sys; from compressor.cli import app\n"
            f"try: app(['{argument}'])\nexcept SystemExit as end: assert end.code == 0\n"
            "assert not {'torch', 'numpy', 'rich', 'onnx'} & set(sys.modules), sorted(sys.modules)"
        )
        result = python("-c", code)
        assert result.returncode == 0, result.stderr


def test_show_reads_every_kind_without_torch(done, tmp_path):
    for path in (done / "run/model.safetensors", done / "run/start.safetensors", done / "run"):
        code = (
            "import sys; from compressor.cli import app\n"
            f"try: app(['show', '{path}'])\nexcept SystemExit as end: assert end.code == 0\n"
            "assert 'torch' not in sys.modules"
        )
        result = python("-c", code)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1].startswith("next: ")


def test_every_command_has_help():
    for command in (
        "run",
        "prune",
        "tune",
        "pack",
        "unpack",
        "export",
        "verify",
        "show",
        "methods",
        "recipes",
        "reader",
    ):
        assert call(command, "--help").exit_code == 0


def test_run_prints_the_report_last_and_what_to_type_next(done):
    result = call("run", done / "job.toml", "--out", done / "run", *SETS)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"next: compressor show {done / 'run'}"
    assert "dense: done before, nothing changed" in result.stderr


def test_run_json_is_the_report_and_nothing_more(done):
    result = call("run", done / "job.toml", "--out", done / "run", "--json", *SETS)
    assert json.loads(result.stdout)["version"] == 1
    sweep = call("run", done / "job.toml", "--set", "prune.density=0.2,0.1", "--dry-run", "--json", *SETS)
    assert [plan["kept"] for plan in json.loads(sweep.stdout)["runs"]] == [8240, 4120]


def test_a_dry_run_of_a_sweep_names_its_runs_and_how_to_type_them(done, monkeypatch):
    monkeypatch.chdir(done)
    monkeypatch.delenv("COMPRESSOR_DATA", raising=False)
    command = ["run", "job.toml", "--set", "prune.density=0.2,0.1", *SETS, "--out", "some where"]
    result = call(*command, "--dry-run")
    assert "prune.density=0.2:" in result.stdout.splitlines()
    last = result.stdout.splitlines()[-1].removeprefix("next: compressor ")
    assert sorted(shlex.split(last)) == sorted(command)


def test_a_sweep_goes_on_past_a_member_that_cannot_run(tmp_path):
    recipe = write_job(tmp_path)
    command = ("run", recipe, "--out", tmp_path / "out", *SETS, "--set", "prune.density=1e-6,0.1", "--json")
    result = call(*command)
    assert result.exit_code == 3, result.output
    assert len(json.loads(result.stdout)["runs"]) == 1
    assert "prune.density=1e-06: " in result.stderr.splitlines()[-1]
    shown = call(*command[:-1])
    assert shown.exit_code == 3
    last = shlex.split(shown.stdout.splitlines()[-1])
    assert last == ["next:", "compressor", "show", str(tmp_path / "out/prune.density=0.1")]
    assert Path(last[-1]).is_dir()


def test_a_failed_verification_still_prints_the_report(tmp_path, monkeypatch):
    from compressor.stages import ship

    real = ship.exporters.export

    def sabotaged(model, path, *args, **kwargs):
        with torch.no_grad():
            model.fc1.bias[0] += 1
        real(model, path, *args, **kwargs)

    monkeypatch.setattr(ship.exporters, "export", sabotaged, raising=False)
    command = ("run", write_job(tmp_path), "--out", tmp_path / "out", "--set", "verify.runtimes=ort_cpu")
    result = call(*command, "--json")
    assert result.exit_code == 5, result.output
    assert not json.loads(result.stdout)["verification"]["passed"]
    shown = call(*command)
    assert shown.exit_code == 5
    assert f"report: {tmp_path / 'out'}/report.html" in shown.stdout


def test_an_input_is_never_written_over(done, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes((done / "run/model.safetensors").read_bytes())
    before = path.read_bytes()
    for command in (("pack", path), ("unpack", path, "--to", "npz-csr"), ("export", path)):
        result = call(*command, "--out", tmp_path / "." / "net.safetensors")
        assert result.exit_code == 3, result.output
        assert "is the file that is read" in result.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("out", [".", "/dev/null"])
def test_what_is_no_name_for_a_file_is_exit_4(done, out):
    result = call("unpack", done / "run/model.safetensors", "--to", "npz-csr", "--out", out)
    assert result.exit_code == 4, result.output
    assert len(result.stderr.splitlines()) == 1


def test_pack_takes_one_word_on_the_mask_and_no_start(done, weights, tmp_path):
    path, _ = weights
    both = call("pack", path, "--mask", path, "--mask-from-zeros", "--out", tmp_path / "out")
    assert both.exit_code == 2
    start = call("pack", done / "run/start.safetensors", "--out", tmp_path / "out")
    assert start.exit_code == 3
    assert "is an ASNI-II start, not a network" in start.stderr


def test_only_the_options_that_a_command_lacks_are_asked_for(weights, tmp_path):
    path, _ = weights
    tuned = call("tune", "--start-file", path, "--out", tmp_path / "out").stderr
    assert "--recipe" in tuned
    assert "--model" not in tuned
    exported = call("export", path, "--model", "lenet-300-100", "--out", tmp_path / "out").stderr
    assert "--data" in exported
    assert "--model" not in exported


def test_a_file_of_another_kind_is_told_by_what_it_is(done, weights, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for path, message in (
        (tmp_path / "empty", "is empty"),
        (weights[0], "pack it first"),
        (done / "data.npz", "is an npz of arrays"),
        (done / "job.toml", "is something else; a packed file or an ONNX file is wanted here"),
    ):
        shown = call("show", path)
        assert shown.exit_code == 3
        assert message in shown.stderr
        verified = call("verify", done / "run/model.safetensors", path)
        assert verified.exit_code == 3
        assert "an ONNX file is wanted here" in verified.stderr


def test_hints_work_as_typed(done, tmp_path, monkeypatch):
    monkeypatch.delenv("COMPRESSOR_DATA", raising=False)
    data = f"npz:{done / 'data.npz'}"
    path = tmp_path / "net.safetensors"
    path.write_bytes((done / "run/model.safetensors").read_bytes())
    named = ("--model", "lenet-300-100", "--data", data)
    exported = call("export", path, *named, "--out", tmp_path / "net.onnx")
    hint = shlex.split(exported.stdout.splitlines()[-1])
    assert hint == ["next:", "compressor", "verify", str(path), str(tmp_path / "net.onnx"), *named]
    start, out = done / "run/start.safetensors", tmp_path / "tuned.safetensors"
    tuned = call("tune", "--start-file", start, "--recipe", done / "job.toml", "--out", out)
    hint = shlex.split(tuned.stdout.splitlines()[-1])
    assert hint[:4] == ["next:", "compressor", "export", str(out)]
    assert call(*hint[2:-1], tmp_path / "tuned.onnx").exit_code == 0


def test_names_are_not_cut_in_a_pipe(capsys):
    from compressor import printing

    printing._console().print("x" * 130)
    assert "x" * 130 in capsys.readouterr().out


def test_a_dry_run_says_what_would_be(done):
    result = call("run", done / "job.toml", "--dry-run", *SETS)
    assert "2,060 of 41,200 prunable weights kept" in result.stdout


def test_tune_from_the_start_file_beside_its_recipe_gives_the_run_s_bytes(done, tmp_path):
    result = call("tune", "--start-file", done / "run/start.safetensors", "--out", tmp_path / "t.safetensors")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "t.safetensors").read_bytes() == (done / "run/model.safetensors").read_bytes()
    assert "accuracy" in result.stdout


def test_prune_then_tune_by_hand(done, tmp_path):
    pruned = tmp_path / "pruned.safetensors"
    data = f"npz:{done / 'data.npz'}"
    weights = ("--weights", done / "run/stages/dense.safetensors")
    how = ("--method", "magnitude", "--density", "0.1", "--out", pruned)
    result = call("prune", "--model", "lenet-300-100", "--data", data, *weights, *how)
    assert result.exit_code == 0, result.output
    assert "4,120 of 41,200 masked weights kept" in result.stdout
    tuned = call(
        "tune", "--start-file", pruned, "--recipe", done / "job.toml", "--out", tmp_path / "t", "--json"
    )
    assert json.loads(tuned.stdout)["kept"] == 4120


def test_pack_wants_to_be_told_which_weights_are_pruned(weights, tmp_path):
    path, state = weights
    refused = call("pack", path, "--out", tmp_path / "out")
    assert refused.exit_code == 3
    assert "--mask-from-zeros" in refused.stderr
    result = call("pack", path, "--mask-from-zeros", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kept"] == 12
    unpacked = compressor.unpack(tmp_path / "out")
    assert all(torch.equal(unpacked[name], tensor) for name, tensor in state.items())


def test_pack_takes_a_saved_mask_and_lossy_values(weights, tmp_path):
    path, state = weights
    compressor.Mask({"fc.weight": state["fc.weight"] != 0}).save(tmp_path / "mask")
    result = call("pack", path, "--mask", tmp_path / "mask", "--values", "float16", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "largest error of the rounding" in result.stdout


@pytest.fixture
def task(tmp_path):
    """A base file, a checkpoint of a task (kept weights as in the base, a bias of its own), and its task file."""
    draw = torch.Generator().manual_seed(0)
    state = {"fc.weight": torch.randn(60, 40, generator=draw), "fc.bias": torch.randn(60, generator=draw)}
    torch.save(state, tmp_path / "base.pt")
    base, path = tmp_path / "base.safetensors", tmp_path / "task.safetensors"
    assert call("pack", tmp_path / "base.pt", "--mask-from-zeros", "--out", base).exit_code == 0
    state["fc.weight"] = torch.where(torch.rand(60, 40, generator=draw) < 0.3, state["fc.weight"], 0.0)
    state["fc.bias"] = state["fc.bias"] + 1
    torch.save(state, tmp_path / "task.pt")
    result = call("pack", tmp_path / "task.pt", "--mask-from-zeros", "--base", base, "--out", path)
    assert result.exit_code == 0, result.output
    digest = hashlib.sha256(base.read_bytes()).hexdigest()
    assert f"needs its base, {base}, which is not counted (SHA-256 {digest})" in result.stdout
    assert "masked, but with weights of their own: none" in result.stdout
    return base, path, state, digest


def test_a_task_is_packed_over_its_base_and_comes_back_with_it_alone(task, tmp_path):
    from safetensors.torch import load_file

    base, path, state, digest = task
    assert path.stat().st_size < 60 * 40 / 8 + 60 * 4 + 250
    out = tmp_path / "out.safetensors"
    result = call("unpack", path, "--base", base, "--to", "safetensors", "--out", out)
    assert result.exit_code == 0, result.output
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(out).items())
    for arguments, message in (
        (
            ("unpack", path),
            "is a task file; give the base file it was packed with (base=, or compressor unpack",
        ),
        (("unpack", path), f"which has the SHA-256 {digest}"),
        (("unpack", path, "--base", path), f"is not the base that {path} was packed with"),
        (("unpack", base, "--base", base), "needs no base"),
        (("unpack", path, "--base", tmp_path / "absent"), "absent: cannot be read"),
    ):
        refused = call(*arguments, "--to", "npz-csr", "--out", tmp_path / "refused")
        assert refused.exit_code == 3, refused.output
        assert message in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "refused").exists()


@pytest.mark.filterwarnings("ignore:.*parse:UserWarning")  # torch says so of CSR when it loads one
@pytest.mark.parametrize("to", ["npz-csr", "torch-csr"])
def test_a_task_unpacks_to_what_its_network_does(task, tmp_path, to):
    base, path, _, _ = task
    whole = tmp_path / "whole.safetensors"
    assert call("pack", tmp_path / "task.pt", "--mask-from-zeros", "--out", whole).exit_code == 0
    for file, options in ((whole, ()), (path, ("--base", base))):
        out = tmp_path / f"{file.stem}.out"
        assert call("unpack", file, *options, "--to", to, "--out", out).exit_code == 0
    if to == "npz-csr":
        assert (tmp_path / "whole.out").read_bytes() == (tmp_path / "task.out").read_bytes()
    else:
        one, other = (torch.load(tmp_path / f"{name}.out", weights_only=True) for name in ("whole", "task"))
        assert torch.equal(one["fc.weight"].to_dense(), other["fc.weight"].to_dense())
        assert torch.equal(one["fc.bias"], other["fc.bias"])


def test_a_task_file_is_shown_without_its_base(task):
    _, path, _, digest = task
    shown = call("show", path)
    assert shown.exit_code == 0, shown.output
    assert f"needs its base file, which is not counted: SHA-256 {digest}" in shown.stdout
    assert "a task over a base network, version 3" in shown.stdout
    assert "gzip of the dense file not known without the base" in shown.stdout
    assert json.loads(call("show", path, "--json").stdout)["base"] == digest


def test_a_base_is_never_written_over_and_must_be_the_network_s(task, weights, tmp_path):
    base, path, _, _ = task
    again = ("pack", tmp_path / "task.pt", "--mask-from-zeros", "--base")
    over = call(*again, base, "--out", base)
    assert over.exit_code == 3
    assert "is the file that is read" in over.stderr
    chained = call(*again, path, "--out", tmp_path / "out")
    assert chained.exit_code == 3
    assert "task.safetensors: is a task file" in chained.stderr
    plain = call(*again, tmp_path / "base.pt", "--out", tmp_path / "out")
    assert plain.exit_code == 3
    assert "base.pt: is not a packed file (compressor pack writes them)" in plain.stderr
    twice = call("pack", path, "--base", base, "--out", tmp_path / "out")
    assert twice.exit_code == 3
    assert "is a task file already; unpack it with its base" in twice.stderr
    foreign = call("pack", weights[0], "--mask-from-zeros", "--base", base, "--out", tmp_path / "out")
    assert foreign.exit_code == 3
    assert "no masked tensor has this file's weights" in foreign.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*parse:UserWarning")  # torch says so of CSR when it loads one
@pytest.mark.parametrize("to", ["safetensors", "npz-csr", "torch-csr"])
def test_unpack_writes_what_other_tools_read_bit_for_bit(done, tmp_path, to):
    out, path = tmp_path / "out.npz", done / "run/model.safetensors"
    assert call("unpack", path, "--to", to, "--out", out).exit_code == 0
    state = compressor.unpack(path)
    weight, kept = state["fc2.weight"], reader.parse(path).tensors["fc2.weight"].kept
    if to == "safetensors":
        from safetensors.torch import load_file

        assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(out).items())
    elif to == "npz-csr":
        with np.load(out) as file:
            arrays = dict(file)
        dense = np.zeros(arrays["fc2.weight.shape"], np.float32)
        rows = np.repeat(np.arange(len(dense)), np.diff(arrays["fc2.weight.indptr"]))
        dense[rows, arrays["fc2.weight.indices"]] = arrays["fc2.weight.data"]
        assert np.array_equal(dense, weight.numpy())
        assert len(arrays["fc2.weight.data"]) == kept
    else:
        loaded = torch.load(out, weights_only=True)
        assert torch.equal(loaded["fc2.weight"].to_dense(), weight)
        columns = loaded["fc2.weight"].col_indices()
        assert columns.untyped_storage().nbytes() == columns.nbytes


def test_reader_prints_the_file_that_stands_alone(tmp_path, done):
    (tmp_path / "reader.py").write_text(call("reader").stdout)
    result = subprocess.run(
        [sys.executable, "-I", tmp_path / "reader.py", done / "run/model.safetensors"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert "fc1.weight" in result.stdout, result.stderr


def test_the_menus_are_listed():
    assert set(json.loads(call("methods", "--json").stdout)) >= {"asni", "magnitude", "random"}
    assert "digits" in json.loads(call("recipes", "--json").stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "digts"], 3, 'unknown recipe "digts"; did you mean "digits"?'),
        (["run", "digits", "--set", "prune.densty=1"], 3, 'did you mean "prune.density"'),
        (["run", "digits", "--nonsense"], 2, "No such option"),
        (["show", "absent"], 3, "absent: cannot be read"),
        (["show", "."], 3, "not a run folder"),
        (["unpack", "absent", "--to", "zip", "--out", "x"], 2, "zip"),
        (["unpack", "absent", "--to", "npz-csr", "--out", "x"], 3, "absent"),
        (["pack", "absent", "--out", "x"], 3, "absent: cannot be read"),
        (["export", "absent", "--out", "x.onnx"], 3, "absent: cannot be read"),
        (["verify", "absent", "net.onnx"], 3, "absent: cannot be read"),
        (["tune", "--start-file", "absent", "--out", "x"], 3, "absent: cannot be read"),
        (["prune", "--method", "magnitude", "--density", "0.5", "--out", "x"], 3, "--model NAME and --data NAME"),
        ([*PRUNE, "--method", "asni", "--density", "0.5", "--out", "x"],
         3, "prunes while it trains"),
        ([*PRUNE, "--method", "random", "--density", "2", "--out", "x"],
         3, "density 2"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence_and_its_exit_code(tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert code == 2 or len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_traceback_shows_the_rest_wherever_it_stands():
    for arguments in (["--traceback", "run", "digts"], ["run", "digts", "--traceback"]):
        result = call(*arguments)
        assert result.exit_code == 3
        assert "Traceback" in result.stderr


def test_a_directory_that_cannot_be_written_is_exit_4(done, tmp_path):
    result = call(
        "unpack", done / "run/model.safetensors", "--to", "safetensors", "--out", tmp_path / "absent/x"
    )
    assert result.exit_code == 4, result.output


def test_ctrl_c_is_exit_130_and_leaves_nothing_half_written(tmp_path):
    recipe = write_job(tmp_path, RECIPE.replace("epochs = 4", "epochs = 400"))
    command = [
        sys.executable,
        "-c",
        "from compressor.cli import app; app()",
        "run",
        str(recipe),
        "--out",
        "out",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Where the tests run in the background of a shell, SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    log = tmp_path / "out/log.jsonl"
    while not (log.exists() and '"epoch"' in log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "compressor: interrupted; the same command goes on from here"
    assert not list((tmp_path / "out").rglob(".*.part"))
    assert not (tmp_path / "out/stages/dense.json").exists()


def test_export_and_verify_by_hand_with_the_recipe_beside_the_file(done, tmp_path):
    model, onnx = done / "run/model.safetensors", tmp_path / "net.onnx"
    exported = call("export", model, "--out", onnx)
    assert exported.exit_code == 0, exported.output
    verified = call("verify", model, onnx, "--runtime", "ort_cpu", "--json")
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["passed"]
    shown = call("show", onnx)
    assert "its digest fits" in shown.stdout
    onnx.write_bytes(onnx.read_bytes()[:-1] + b"0")
    assert call("verify", model, onnx, "--runtime", "ort_cpu").exit_code in (3, 5)


def test_a_stale_packed_file_is_exit_5_and_the_sentence_says_why(done, tmp_path):
    onnx = tmp_path / "net.onnx"
    assert call("export", done / "run/model.safetensors", "--out", onnx).exit_code == 0
    stale = Path(done / "run/stages/prune.safetensors")
    result = call("verify", stale, onnx, "--model", "lenet-300-100", "--data", f"npz:{done / 'data.npz'}")
    assert result.exit_code == 5, result.output
    assert result.stderr.startswith("compressor: ")
