"""Retraining after pruning: replayed schedules, rounds, the stop rule and the dense control."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from job import write_job
from torch import nn

import compressor
from compressor import optimizers, packed, recipes, train
from compressor.errors import InputError
from compressor.files import sha256
from compressor.methods.magnitude import magnitude
from compressor.recipe import Prune, Train, epoch_at, rounds_of
from compressor.runs import Run
from compressor.stages import SHIPS, stages
from compressor.stages.rounds import counts

JOB = """
seed = 3
[model]
name = "lenet-300-100"
[data]
name = "npz:data.npz"
validation = 0.25
[train]
lr = 0.05
batch = 32
epochs = 4
threads = 1
device = "cpu"
[dense]
warmup = 1
[prune]
method = "magnitude"
density = 0.02
[tune]
replay_from = 0.5
[export]
enabled = false
[verify]
enabled = false
"""
ITERATIVE = ("prune.per_round=0.7", "prune.density=0.01")  # 30, 9, 2.7, 1 %


def run(folder: Path, *sets: str, out: str = "out", events: list | None = None):
    if not (folder / "job.toml").exists():
        write_job(folder, JOB)
    listen = events.append if events is not None else None
    return compressor.run(folder / "job.toml", out=folder / out, sets=sets, on_event=listen)


def result(folder: Path, stage: str) -> dict:
    return json.loads((folder / f"out/stages/{stage}.json").read_text())["result"]


def begun(events: list) -> list[str]:
    return [event["stage"] for event in events if event["event"] == "stage"]


# ---- the worked numbers of papers/lr-rewinding.md, section 7


def test_number_1_densities_and_the_rounds_that_a_density_takes():
    powers = [0.8, 0.64, 0.512, 0.4096, 0.32768, 0.262144, 0.2097152, 0.16777216, 0.134217728, 0.1073741824]
    for number, power in enumerate(powers, 1):
        assert rounds_of(Prune(density=power, per_round=0.2)) == number
    asked = {0.1: 11, 0.05: 14, 0.5: 4, 0.9: 1, 1.0: 1}
    assert {d: rounds_of(Prune(density=d, per_round=0.2)) for d in asked} == asked


def test_number_2_counts_half_to_even_of_what_remains():
    settings = Prune(density=0.1073741824, per_round=0.2)
    assert counts(settings, 1000) == (800, 640, 512, 410, 328, 262, 210, 168, 134, 107)
    assert counts(Prune(density=0.1, per_round=0.5), 25) == (12, 6, 3, 3)  # 12.5 -> 12; the last is asked for


def author(step: int) -> float:
    """The rate of the reference code: milestones are int(epoch * 50000 / 128), the upper end inclusive."""
    drops = [int(epoch * 50_000 / 128) for epoch in (91, 136)]
    assert drops == [35_546, 53_125]
    return 0.1 * 0.1 ** sum(step > drop for drop in drops)


def test_numbers_3_and_4_the_reference_s_steps_and_ours():
    assert [round(step * 128 / 50_000, 2) for step in (4701, 71_108)] == [12.03, 182.04]
    assert 71_108 - 4701 == 66_407
    rates = {35_546: 0.1, 35_547: 0.01, 53_125: 0.01, 53_126: 0.001}
    assert {step: round(author(step), 9) for step in rates} == rates
    # Ours counts whole steps: 391 per epoch, 12 of 182 epochs are 4692, and the new rate begins with the epoch.
    settings = Train(lr=0.1, schedule="multistep", milestones=(91, 136), epochs=182)
    per_epoch = optimizers.steps_per_epoch(50_000, 128)
    assert per_epoch == 391
    first = epoch_at(12 / 182, 182)
    assert ((first * per_epoch), (182 - first) * per_epoch) == (4692, 66_470)
    edges = {91 * 391 - 1: 0.1, 91 * 391: 0.01, 136 * 391 - 1: 0.01, 136 * 391: 0.001}
    assert {step: round(optimizers.learning_rate(settings, step, per_epoch), 9) for step in edges} == edges
    for epoch in (0, 50, 90, 92, 135, 137, 181):
        ours = optimizers.learning_rate(settings, epoch * per_epoch, per_epoch)
        assert ours == pytest.approx(author(int(epoch * 390.625)))


class Flat(nn.Module):
    def __init__(self, values: list[float]):
        super().__init__()
        self.fc = nn.Linear(len(values), 1, bias=False)
        self.fc.weight.data = torch.tensor([values])

    def forward(self, x):
        return self.fc(x)


def test_number_5_ties_at_the_threshold_go_by_position_and_the_count_is_exact():
    net = Flat([0.1, -0.2, 0.2, 0.3, -0.5])
    mask = compressor.prune(net, "magnitude", density=0.6)["fc.weight"]
    # The sheet's index order removes the first tie; ours keeps it, as everywhere in this project (DESIGN 3).
    assert mask.tolist() == [[False, True, False, True, True]]
    reference = net.fc.weight.abs() > 0.2
    assert int(reference.sum()) == 2  # "> threshold" removes 3 of 5 where 2 were asked for


def test_number_6_iterative_rewinding_and_its_control_train_equally_long(tmp_path):
    write_job(tmp_path, JOB.replace("epochs = 4", "epochs = 182"))
    plan = compressor.run(
        tmp_path / "job.toml",
        sets=[
            "prune.density=0.1073741824",
            "prune.per_round=0.2",
            "tune.replay_from=0",
            "dense.control=true",
        ],
        dry_run=True,
    )
    tune = sum(count for name, count in plan["epochs"].items() if name.startswith("tune"))
    control = sum(count for name, count in plan["epochs"].items() if name.startswith("control"))
    assert (plan["epochs"]["dense"], tune, control) == (182, 1820, 1820)
    assert plan["epochs"]["dense"] + control == 2002
    assert len(plan["rounds"]) == 10


# ---- how many, and which


@given(
    total=st.integers(1, 5000),
    density=st.floats(0.001, 1),
    how=st.one_of(st.integers(1, 12), st.floats(0.05, 0.95)),
)
def test_rounds_never_grow_and_end_on_the_asked_density(total, density, how):
    schedule = {"rounds": how} if isinstance(how, int) else {"per_round": how}
    found = counts(Prune(density=density, **schedule), total)
    assert len(found) == rounds_of(Prune(density=density, **schedule))
    assert found[-1] == compressor.prune(Flat([0.0] * total), "magnitude", density=density).kept
    assert all(before >= after for before, after in pairwise((total, *found)))


def test_rounds_alone_share_the_way_evenly():
    assert counts(Prune(density=0.001, rounds=3), 1000) == (100, 10, 1)


def three_layers(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
def test_magnitude_within_a_mask_keeps_nothing_else_and_the_exact_count(scope):
    for seed in range(20):
        net = three_layers(seed)
        before = None
        for kept in (56, 50, 44, 39, 33, 28, 21, 17, 13, 9):
            options = {} if before is None else {"within": before}
            mask = magnitude(net, kept / 56, scope=scope, **options)
            assert mask.kept == kept
            if before is not None:
                assert all(bool((~mask[name] | before[name]).all()) for name in mask)
            before = mask
            with (
                torch.no_grad()
            ):  # a training moves what is kept, and what is pruned is smaller than all of it
                for name, weight in net.named_parameters():
                    if name in mask:
                        weight.normal_().masked_fill_(~mask[name], 0.0)


def test_a_kept_weight_of_exactly_zero_is_before_one_that_is_pruned():
    net = Flat([0.0, 0.0, 1.0, 0.0])
    within = {"fc.weight": torch.tensor([[False, False, True, True]])}
    mask = compressor.prune(net, "magnitude", density=0.5, within=within)
    assert mask["fc.weight"].tolist() == [[False, False, True, True]]


@pytest.mark.parametrize(
    ("within", "message"),
    [
        ({"fc.weight": torch.tensor([[True, False, False]])}, "within keeps 1 weights, fewer than the 2"),
        ({"fc.weight": torch.ones(3, 1, dtype=torch.bool)}, "does not fit"),
        ({}, 'within: "fc.weight" is masked or prunable, not both'),
    ],
)
def test_a_mask_to_prune_within_has_to_fit(within, message):
    with pytest.raises(InputError, match=re.escape(message)):
        compressor.prune(Flat([1.0, 2.0, 3.0]), "magnitude", density=0.6, within=within)


# ---- replaying the dense training


@pytest.fixture
def rates(monkeypatch):
    """The rate of every optimiser at every step, one list per training."""
    found: list[list[float]] = []
    real = train.make_optimizer

    def watched(model, settings):
        optimizer = real(model, settings)
        found.append([])
        steps = found[-1]
        optimizer.register_step_pre_hook(lambda o, *_: steps.append(o.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(train, "make_optimizer", watched)
    return found


@pytest.mark.parametrize("schedule", ["cosine", "constant", "multistep"])
@pytest.mark.parametrize("start", ["trained", "rewind"])
def test_a_replay_has_the_very_rates_of_the_dense_training(tmp_path, rates, schedule, start):
    sets = (f"dense.schedule={schedule}", "dense.milestones=[2,3]", f"tune.start={start}")
    run(tmp_path, *sets, "tune.replay_from=0.3")
    dense, tune = rates
    assert len(dense) == 4 * 6
    assert tune == dense[6:]  # 0.3 of 4 epochs is epoch 1
    assert schedule == "constant" or tune[0] > tune[-1]


def test_fine_tuning_at_a_last_rate_is_a_constant_schedule(tmp_path, rates):
    text = JOB.replace("replay_from = 0.5", 'lr = 5e-4\nschedule = "constant"\nepochs = 2')
    write_job(tmp_path, text)
    run(tmp_path)
    assert rates[1] == [0.0005] * 12


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75])
def test_a_rewound_network_that_loses_nothing_is_the_dense_one_again(tmp_path, share):
    # Without momentum nothing but weights, rates and data order decides: all three must be those of the dense run.
    sets = ("train.momentum=0", "prune.density=1", "tune.start=rewind", f"tune.replay_from={share}")
    report = run(tmp_path, *sets)
    dense = packed.unpack(tmp_path / "out/stages/dense.safetensors")
    again = packed.unpack(tmp_path / "out/stages/tune.safetensors")
    assert all(torch.equal(dense[name], again[name]) for name in dense)
    assert report["accuracy_epochs"] == {"dense": 4, "final": 4 + round(4 * (1 - share))}


def test_weights_rewind_to_where_the_schedule_does(tmp_path):
    run(tmp_path, "tune.start=rewind", "tune.replay_from=0.5", "tune.replay_from=0.5")
    first = sha256(tmp_path / "out/stages/rewind.safetensors")
    write_job(tmp_path / "explicit", JOB)
    run(tmp_path / "explicit", "tune.start=rewind", "tune.replay_from=0.5", "tune.rewind_to=0.5")
    assert sha256(tmp_path / "explicit/out/stages/rewind.safetensors") == first


def test_a_stopped_replay_goes_on_to_the_same_bits(tmp_path):
    class StopError(Exception):
        pass

    def stop(event):
        if event["event"] == "epoch" and (event["stage"], event["epoch"]) == ("tune", 1):
            raise StopError

    run(tmp_path, "tune.replay_from=0", out="whole")
    with pytest.raises(StopError):
        compressor.run(
            tmp_path / "job.toml", out=tmp_path / "out", sets=["tune.replay_from=0"], on_event=stop
        )
    run(tmp_path, "tune.replay_from=0")
    names = ("whole/model.safetensors", "out/model.safetensors")
    assert len({sha256(tmp_path / name) for name in names}) == 1


def test_a_change_of_the_dense_training_is_replayed(tmp_path):
    run(tmp_path)
    events: list = []
    run(tmp_path, "tune.replay_from=0.25", events=events)
    assert begun(events) == ["tune", "pack", "report"]
    events.clear()
    run(tmp_path, "dense.lr=0.04", events=events)
    assert begun(events) == ["dense", "prune", "tune", "pack", "report"]


# ---- rounds


@pytest.fixture(scope="module")
def iterated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iterated")
    return folder, run(folder, *ITERATIVE, "dense.control=true")


def test_every_round_prunes_within_the_one_before_and_the_last_ships(iterated):
    folder, report = iterated
    masks = [packed.unpack_mask(folder / f"out/stages/tune{n}.safetensors") for n in ("", "-2", "-3", "-4")]
    kept = [sum(int(mask.sum()) for mask in each.values()) for each in masks]
    assert kept == [row["kept"] for row in report["rounds"]] == [12360, 3708, 1112, 412]
    for before, after in pairwise(masks):
        assert all(bool((~after[name] | before[name]).all()) for name in before)
    shipped = packed.unpack_mask(folder / "out/model.safetensors")
    assert all(torch.equal(shipped[name], masks[-1][name]) for name in shipped)


def test_a_round_ranks_the_weights_that_the_round_before_left(iterated):
    folder, _ = iterated
    before = packed.unpack(folder / "out/stages/tune.safetensors")
    after = packed.unpack(folder / "out/stages/prune-2.safetensors")
    mask = packed.unpack_mask(folder / "out/stages/prune-2.safetensors")
    kept = torch.cat([before[name][keep].abs() for name, keep in mask.items()])
    lost = torch.cat([before[name][~keep].abs() for name, keep in mask.items()])
    assert kept.min() >= lost.max()
    assert all(torch.equal(after[name], before[name] * keep) for name, keep in mask.items())


def test_the_report_has_a_row_per_round(iterated):
    folder, report = iterated
    assert set(report["rounds"][0]) == {
        "round", "density", "kept", "accuracy", "control", "validation", "packed", "shipped",
    }  # fmt: skip
    assert [row["shipped"] for row in report["rounds"]] == [False, False, False, True]
    last = report["rounds"][-1]
    assert last["accuracy"] == report["accuracy"]["final"]
    assert last["packed"] == report["bytes"]["packed"]
    assert last["validation"] == result(folder, "tune-4")["validation"]
    assert last["control"] == report["accuracy"]["control"]
    packed_bytes = [row["packed"] for row in report["rounds"]]
    assert packed_bytes == sorted(packed_bytes, reverse=True)
    stages = list(dict.fromkeys(epoch["stage"] for epoch in report["epochs"]))
    assert stages == ["dense", "tune", "tune-2", "tune-3", "tune-4",
                      "control", "control-2", "control-3", "control-4"]  # fmt: skip


def test_the_control_trains_as_long_and_is_never_pruned(iterated):
    folder, report = iterated
    assert report["accuracy_epochs"] == {"dense": 4, "control": 12, "final": 12}
    for number, name in enumerate(("control", "control-2", "control-3", "control-4"), 1):
        tuned = result(folder, "tune" if number == 1 else f"tune-{number}")["epochs"]
        assert len(result(folder, name)["epochs"]) == len(tuned) == 2
        assert packed.unpack_mask(folder / f"out/stages/{name}.safetensors") == {}
    weights = packed.unpack(folder / "out/stages/control-4.safetensors")
    assert all(bool((weights[f"fc{n}.weight"] != 0).all()) for n in (1, 2, 3))


def test_the_control_has_the_rates_of_the_rounds(tmp_path, rates):
    run(tmp_path, "prune.rounds=2", "dense.control=true")
    dense, *others = rates
    assert others == [dense[12:]] * 4


def test_one_round_needs_no_table_of_rounds(tmp_path):
    report = run(tmp_path, "dense.control=true")
    assert report["rounds"] == []
    stored = {key: result(tmp_path, stage)["validation"] for key, stage in
              (("dense", "dense"), ("final", "tune"))}  # fmt: skip
    assert report["validation"] == stored
    assert report["accuracy_epochs"] == {"dense": 4, "control": 6, "final": 6}


def test_given_weights_are_what_the_control_starts_from(tmp_path):
    run(tmp_path)
    given_weights = tmp_path / "out/stages/dense.safetensors"
    write_job(tmp_path / "given", JOB.replace("replay_from = 0.5", "epochs = 2"))
    sets = ("dense.enabled=false", f"model.weights={given_weights}", "dense.control=true", "prune.rounds=2")
    report = run(tmp_path / "given", *sets)
    assert set(report["accuracy"]) == {"given", "dense", "control", "pruned", "final"}
    assert report["accuracy_epochs"] == {"dense": 0, "control": 4, "final": 4}


def test_rounds_that_are_not_wanted_any_more_are_forgotten(tmp_path):
    run(tmp_path, "prune.rounds=3", "dense.control=true")
    run(tmp_path, "prune.rounds=2")
    stages = {path.stem for path in (tmp_path / "out/stages").iterdir()}
    rounds = {"prune", "tune", "prune-2", "tune-2", "control", "control-2"}
    assert stages == {"dense", *rounds, "pack", "report"}


@pytest.mark.parametrize("other", ["prune.max_drop=0", "dense.control=false", "prune.max_drop=0.12"])
def test_what_was_trained_stays_for_a_recipe_that_wants_it_again(tmp_path, other):
    sets = ("prune.rounds=3", "dense.control=true")
    first = run(tmp_path, *sets, "prune.max_drop=1")
    with suppress(InputError):
        run(tmp_path, *sets, other)
    events: list = []
    again = run(tmp_path, *sets, "prune.max_drop=1", events=events)
    assert set(begun(events)) <= {"pack", "report"}
    assert not [event for event in events if event["event"] == "epoch"]
    assert again["rounds"] == first["rounds"]


def test_what_a_stage_depends_on_is_the_same_whichever_was_asked_first(tmp_path):
    report = run(tmp_path, "prune.rounds=2", "dense.control=true")
    assert set(report["environment"]["inputs"]) == {"data", "npz"}
    recipe = recipes.load(tmp_path / "job.toml", ["prune.rounds=2", "dense.control=true"])
    keys = []
    for turn in (1, -1):
        walked = Run(recipe, tmp_path / "out", tmp_path)
        every = [(name, stage) for name, stage in stages(recipe).items() if name not in ("given", *SHIPS)]
        keys.append({name: stage.step(walked).key for name, stage in every[::turn]})
    assert keys[0] == keys[1]


def test_a_control_does_not_hang_on_what_is_pruned(tmp_path):
    sets = ("prune.rounds=2", "dense.control=true")
    run(tmp_path, *sets)
    events: list = []
    run(tmp_path, *sets, "prune.density=0.03", events=events)
    assert begun(events) == ["prune", "tune", "prune-2", "tune-2", "pack", "report"]


@pytest.mark.parametrize("change", ["tune.replay_from=0.51", "tune.mask=fixed"])
def test_a_setting_without_effect_trains_nothing_again(tmp_path, change):
    run(tmp_path)
    events: list = []
    run(tmp_path, change, events=events)
    assert begun(events) == ["report"]


def test_a_share_that_rewinds_to_the_same_epoch_trains_nothing_again(tmp_path):
    run(tmp_path, "tune.start=rewind", "tune.replay_from=0.5")
    events: list = []
    run(tmp_path, "tune.start=rewind", "tune.replay_from=0.52", events=events)
    assert begun(events) == ["report"]


def test_members_of_a_sweep_share_the_rounds_that_they_can(tmp_path):
    events: list = []
    run(tmp_path, "prune.per_round=0.7", "prune.density=0.09,0.03", events=events)
    assert begun(events) == ["dense", "prune", "tune", "prune-2", "tune-2", "pack", "report",
                             "prune-2", "prune-3", "tune-3", "pack", "report"]  # fmt: skip


@pytest.mark.parametrize("start", ["init", "rewind"])
def test_every_round_rewinds_to_the_same_weights(tmp_path, start):
    replay = 0 if start == "init" else 0.25
    run(tmp_path, f"tune.start={start}", f"tune.replay_from={replay}", "prune.rounds=2", "prune.density=1")
    files = [packed.unpack(tmp_path / f"out/stages/{name}.safetensors") for name in ("tune", "tune-2")]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


DYING = ("prune.per_round=0.98", "prune.density=1e-4")


def test_a_round_through_which_nothing_flows_is_named_and_nothing_ships_beside_it(tmp_path):
    run(tmp_path)
    with pytest.raises(InputError, match=r"^round 2 of 3: "):
        run(tmp_path, *DYING)
    left = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert left == {"recipe.toml", "environment.json", "log.jsonl", "stages"}


def test_with_a_budget_the_round_before_a_collapse_ships(tmp_path):
    run(tmp_path, "prune.rounds=3")  # leaves a tune-2 that is none of the next recipe's
    for _ in range(2):
        events: list = []
        report = run(tmp_path, *DYING, "prune.max_drop=1", "dense.control=true", events=events)
        assert [row["shipped"] for row in report["rounds"]] == [True, False]
        assert report["density"]["kept"] == report["rounds"][0]["kept"] == 824
        assert report["rounds"][1]["kept"] == 16
        assert report["rounds"][1]["collapse"].startswith("round 2 of 3: layer collapse")
        assert (tmp_path / "out/model.safetensors").exists()
    assert begun(events) == ["prune-2", "report"]  # looked at again, nothing trained
    assert report["accuracy_epochs"] == {"dense": 4, "control": 6, "final": 6}


VICTIM = """
import os, signal, sys
import compressor
def told(event):
    if event["event"] == "epoch" and f"{event['stage']} {event['epoch']}" == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
sets = sys.argv[4:]
compressor.run(sys.argv[1], out=sys.argv[2], sets=sets, on_event=told)
"""


def test_a_run_killed_within_a_round_goes_on_in_that_round_to_the_same_bytes(iterated, tmp_path):
    folder, _ = iterated
    sets = [*ITERATIVE, "dense.control=true"]
    for place in ("tune-3 1", "control-2 1"):
        command = [sys.executable, "-c", VICTIM, folder / "job.toml", tmp_path / "out", place, *sets]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    events: list = []
    compressor.run(folder / "job.toml", out=tmp_path / "out", sets=sets, on_event=events.append)
    assert begun(events)[0] == "control-2"
    trained = [(e["stage"], e["epoch"]) for e in events if e["event"] == "epoch"]
    assert trained[0] == ("control-2", 1)  # its first epoch is in the checkpoint
    for name in ("model.safetensors", "stages/tune-3.safetensors", "stages/control-4.safetensors"):
        assert sha256(tmp_path / "out" / name) == sha256(folder / "out" / name)


# ---- the stop rule


def drops(folder: Path) -> list[float]:
    dense = result(folder, "dense")["validation"]
    return [dense - result(folder, name)["validation"] for name in ("tune", "tune-2", "tune-3", "tune-4")]


def test_the_last_round_inside_the_budget_ships_and_none_is_trained_beyond(iterated, tmp_path):
    lost = drops(iterated[0])
    worst = max(range(4), key=lambda i: lost[i])
    assert worst > 0
    assert lost[worst] > max(lost[:worst])  # the job is such that a budget lies between
    budget = (max(0.0, *lost[:worst]) + lost[worst]) / 2
    events: list = []
    report = run(tmp_path, *ITERATIVE, "dense.control=true", f"prune.max_drop={budget}", events=events)
    assert begun(events).count("control" if worst == 1 else f"control-{worst}") == 1
    assert f"prune-{worst + 2}" not in begun(events)
    assert f"control-{worst + 1}" not in begun(events)
    assert [row["shipped"] for row in report["rounds"]] == [i == worst - 1 for i in range(worst + 1)]
    accepted = "tune" if worst == 1 else f"tune-{worst}"
    shipped = packed.unpack(tmp_path / "out/model.safetensors")
    stored = packed.unpack(tmp_path / f"out/stages/{accepted}.safetensors")
    assert all(torch.equal(shipped[name], stored[name]) for name in stored)
    assert report["density"]["kept"] == report["rounds"][worst - 1]["kept"]
    pruned = result(tmp_path, accepted.replace("tune", "prune"))["accuracy"]["pruned"]
    assert report["accuracy"]["pruned"] == pruned
    assert report["accuracy_epochs"]["control"] == report["accuracy_epochs"]["final"] == 4 + 2 * worst


def test_another_budget_trains_nothing_again(tmp_path):
    run(tmp_path, "prune.rounds=2", "prune.max_drop=1")
    before = (tmp_path / "out/stages/tune-2.json").read_bytes()
    events: list = []
    run(tmp_path, "prune.rounds=2", events=events)
    assert not begun(events) or begun(events) == ["report"]
    assert (tmp_path / "out/stages/tune-2.json").read_bytes() == before


def test_the_stop_rule_never_sees_the_test_set(tmp_path):
    write_job(tmp_path / "a", JOB)
    write_job(tmp_path / "b", JOB)
    arrays = dict(np.load(tmp_path / "b/data.npz"))
    arrays["y_test"] = (arrays["y_test"] + 1) % 4  # every answer is wrong now
    np.savez(tmp_path / "b/data.npz", **arrays)
    sets = (*ITERATIVE, "prune.max_drop=0.2")
    first, second = run(tmp_path / "a", *sets), run(tmp_path / "b", *sets)
    assert [row["validation"] for row in first["rounds"]] == [row["validation"] for row in second["rounds"]]
    assert [row["shipped"] for row in first["rounds"]] == [row["shipped"] for row in second["rounds"]]
    assert first["accuracy"]["final"] != second["accuracy"]["final"]


def test_a_first_round_over_the_budget_is_one_sentence_and_ships_nothing(tmp_path):
    sets = ("dense.control=true",)
    run(tmp_path, *sets)
    with pytest.raises(InputError, match=r"max_drop = 0.0: round 1 takes the validation accuracy from .* to"):
        run(tmp_path, *sets, "prune.max_drop=0")
    left = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert left == {"recipe.toml", "environment.json", "log.jsonl", "stages"}
    report = run(tmp_path, *sets, "prune.max_drop=1")
    assert report["density"]["kept"] == 824


def test_a_drop_of_exactly_the_budget_is_allowed(tmp_path):
    run(tmp_path)
    lost = result(tmp_path, "dense")["validation"] - result(tmp_path, "tune")["validation"]
    assert lost > 0
    assert run(tmp_path, f"prune.max_drop={round(lost, 12)}")["accuracy"]["final"]


# ---- what is refused, and what is planned


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("prune.method=random", "prune.rounds=2"), "only magnitude ranks"),
        (("prune.method=asni", "prune.per_round=0.5"), "asni prunes once"),
        (
            ("prune.method=asni", "dense.control=true"),
            r"job.toml: \[dense\] .* asni is a training of its own",
        ),
        (("prune.method=magnitud", "prune.rounds=2"), 'did you mean "magnitude"'),
        (("prune.weights=start", "dense.control=true"), "magnitude starts from random ones"),
        (("prune.method=random", "dense.control=true"), "random starts from random ones"),
        (("prune.method=asni", "prune.weights=dense", "dense.control=true"), "asni is a training of its own"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_is_written(tmp_path, sets, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, *sets)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_rounds_and_epochs(tmp_path, capsys):
    from compressor import printing

    write_job(tmp_path, JOB)
    sets = [*ITERATIVE, "prune.max_drop=0.1", "dense.control=true"]
    plan = compressor.run(tmp_path / "job.toml", sets=sets, dry_run=True)
    assert plan["rounds"] == [12360, 3708, 1112, 412]
    assert plan["kept"] == 412
    assert not plan["exact"]
    assert list(plan["epochs"])[:3] == ["dense", "tune", "tune-2"]
    printing.plans({tmp_path: plan}, sweep=False)
    printed = capsys.readouterr().out
    assert "rounds, at most: 4, which keep 12,360, 3,708, 1,112, 412" in printed
    assert "epochs, at most: dense 4, tune 4 x 2, control 4 x 2, 20 in all" in printed
