import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from compressor import recipes
from compressor.errors import InputError
from compressor.recipe import Train

SMALL = {"model": {"name": "lenet-300-100"}, "data": {"name": "digits"}}


def parse(extra: dict, folder: Path = Path("/jobs")):
    return recipes.parse(SMALL | extra, "job.toml", folder)


@pytest.mark.parametrize("name", recipes.menu())
def test_every_built_in_recipe_loads_and_its_resolved_copy_means_the_same(name):
    recipe = recipes.load(name)
    again = recipes.parse(tomllib.loads(recipes.dumps(recipe)), "copy", Path("/elsewhere"))
    assert again == recipe


@pytest.mark.parametrize("name", recipes.menu())
def test_every_built_in_recipe_opens_with_a_line_that_says_what_it_is(name):
    assert len(recipes.menu()[name]) > 20


def test_recipes_that_were_only_smoke_tested_say_so():
    menu = recipes.menu()
    assert all(("smoke-tested" in menu[name]) == name.startswith(("cifar10", "imagenet")) for name in menu)


def test_the_resolved_copy_writes_every_default_out():
    table = tomllib.loads(recipes.dumps(parse({})))
    assert set(table["train"]) == {field.name for field in fields(Train)}
    assert set(table) == {
        "seed",
        "folder",
        "model",
        "data",
        "train",
        "dense",
        "prune",
        "tune",
        "pack",
        "export",
        "verify",
    }


def test_the_names_of_the_settings_are_these():
    table = recipes.table_of(parse({}))
    train = [
        "optimizer",
        "lr",
        "momentum",
        "nesterov",
        "weight_decay",
        "batch",
        "epochs",
        "schedule",
        "cosine_scale",
        "milestones",
        "gamma",
        "warmup",
        "label_smoothing",
        "augment",
        "amp",
        "device",
        "threads",
    ]
    assert list(table["model"]) == ["name", "weights"]
    assert list(table["data"]) == ["name", "validation", "mean", "std"]
    assert list(table["train"]) == train
    assert list(table["dense"]) == ["enabled", "control", *train]
    prune = ["method", "density", "scope", "exclude", "weights", "end", "rounds", "per_round", "max_drop"]
    assert list(table["prune"]) == [*prune, *train]
    tune = ["enabled", "start", "tied", "mask", "rewind_to", "replay_from"]
    assert list(table["tune"]) == [*tune, *train]
    assert list(table["pack"]) == ["format", "values", "biases", "fold_dead", "order_units"]
    assert list(table["export"]) == ["enabled", "encoding"]
    assert list(table["verify"]) == ["enabled", "samples", "runtimes"]


def test_a_stage_takes_train_keys_and_overrides_them_for_itself_alone():
    recipe = parse({"train": {"lr": 0.2, "epochs": 7}, "tune": {"lr": 0.01}})
    assert (recipe.dense.train.lr, recipe.prune.train.lr, recipe.tune.train.lr) == (0.2, 0.2, 0.01)
    assert {stage.train.epochs for stage in (recipe.dense, recipe.prune, recipe.tune)} == {7}


def test_a_replaying_tune_takes_the_settings_of_dense():
    recipe = parse(
        {"train": {"lr": 0.2}, "dense": {"lr": 0.1, "epochs": 9}, "tune": {"replay_from": 0.2, "lr": 0.1}}
    )
    assert recipe.tune.train == recipe.dense.train
    assert recipes.parse(tomllib.loads(recipes.dumps(recipe)), "copy", Path("/")) == recipe
    assert "lr" not in tomllib.loads(recipes.dumps(recipe))["tune"]
    swept = [one for _, one in recipes.sweep(recipe, ["dense.lr=0.3,0.4"])]
    assert [one.tune.train.lr for one in swept] == [0.3, 0.4]


ITERATIVE = ("prune.method=magnitude", "prune.per_round=0.2")


def test_what_is_absent_stays_absent_in_the_resolved_copy():
    table = tomllib.loads(recipes.dumps(parse({})))
    assert not {"replay_from", "rewind_to"} & set(table["tune"])
    assert not {"per_round", "max_drop"} & set(table["prune"])
    assert parse({"dense": {}, "tune": {"start": "rewind", "rewind_to": 0}}).tune.rewind_to == 0.0
    assert recipes.load("digits", [*ITERATIVE, "tune.tied=false"]).prune.per_round == 0.2


REPLAY = {"replay_from": 0.5}
CHECKED = {"data": {"name": "digits", "validation": 0.1}}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"tune": REPLAY}, r"replay_from = 0.5 wants a \[dense\] section"),
        ({"tune": {"replay_from": 1}}, r"replay_from = 1.0 is out of range; it must be from 0 to below 1"),
        ({"tune": {"replay_from": 0.99}, "dense": {}}, r"of 20 epochs leaves none to train"),
        ({"tune": REPLAY | {"lr": 0.1}, "dense": {}}, r"lr = 0.05; leave \[tune\] lr = 0.1 out"),
        ({"tune": REPLAY | {"epochs": 5}, "dense": {}}, r"leave \[tune\] epochs = 5 out"),
        ({"tune": REPLAY | {"lr": 0.05}, "dense": {"lr": 0.1}}, r"leave \[tune\] lr = 0.05 out"),
        (
            {"tune": REPLAY | {"start": "rewind", "rewind_to": 0.1}, "dense": {}},
            r"rewind_to = 0.1 differ; .*leave rewind_to out",
        ),
        ({"tune": REPLAY | {"start": "init"}, "dense": {}}, r"wants replay_from = 0"),
        ({"tune": REPLAY | {"tied": True}, "dense": {}}, r"cannot be with tied = true"),
        ({"prune": {"rounds": 3, "per_round": 0.2}}, r"rounds = 3 and per_round = 0.2 .*give one of them"),
        ({"prune": {"rounds": 1, "per_round": 0.2}}, r"rounds = 1 and per_round = 0.2 .*give one of them"),
        (
            {"tune": {"rewind_to": 0.3}, "dense": {}},
            r'rewind_to = 0.3 is for start = "rewind", not "trained"',
        ),
        (
            {"tune": {"tied": True}, "dense": {"control": True}, "prune": {"method": "magnitude"}},
            r"control = true trains at the rates of \[tune\], .* leave tied = true or control out",
        ),
        ({"prune": {"rounds": 2, "method": "snip"}}, r"only magnitude ranks .* snip prunes once"),
        ({"dense": {"control": True}}, r"control = true .* asni is a training of its own"),
        ({"dense": {"control": True}, "prune": {"method": "snip"}}, r"snip starts from random ones"),
        ({"prune": {"rounds": 0}}, r"rounds = 0 is out of range; it must be 1 or more"),
        ({"prune": {"per_round": 1}}, r"per_round = 1.0 is out of range"),
        ({"prune": {"rounds": 1001}}, r"1001 rounds are more than 1000"),
        ({"prune": {"per_round": 0.001}}, r"2995 rounds are more than 1000; raise per_round"),
        ({"prune": {"rounds": 2}, "tune": {"enabled": False}}, r"without it they are one round"),
        ({"prune": {"rounds": 2}, "tune": {"tied": True}}, r"two levels per layer leave no order"),
        ({"prune": {"rounds": 2}, "tune": {"start": "levels"}}, r'not "levels"'),
        ({"prune": {"max_drop": 0.01}, "dense": {}}, r"give \[data\] validation"),
        (CHECKED | {"prune": {"max_drop": 0.01}}, r"wants a dense network to hold against"),
        (
            CHECKED | {"prune": {"max_drop": 0.01}, "dense": {}, "tune": {"enabled": False}},
            r"judges tuned networks",
        ),
        ({"dense": {"control": True, "enabled": False}}, r"control = true wants \[dense\] enabled = true"),
        ({"dense": {"control": True}, "tune": {"enabled": False}}, r"trains as long as \[tune\] does"),
    ],
)
def test_a_retraining_that_cannot_be_is_told_in_one_sentence(extra, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(extra)
    assert str(caught.value).startswith("job.toml: [")
    assert "\n" not in str(caught.value)


def test_a_dense_section_turns_the_dense_stage_on_unless_it_says_otherwise():
    assert not parse({}).dense.enabled
    assert parse({"dense": {}}).dense.enabled
    assert not parse({"dense": {"enabled": False}}).dense.enabled


GIVEN = {"model": {"name": "lenet-300-100", "weights": "w.th"}, "prune": {"method": "magnitude"}}


@pytest.mark.parametrize(
    ("extra", "sets", "enabled"),
    [
        ({}, ["dense.control=false"], False),  # nothing asked for a dense training
        ({}, ["dense.epochs=3"], True),
        ({"dense": {}}, ["dense.control=false"], True),
        ({"dense": {}, "prune": {"method": "magnitude"}}, ["dense.control=true"], True),
        ({"dense": {"control": True}, "prune": {"method": "magnitude"}}, [], True),
        (GIVEN | {"dense": {"control": True}}, [], False),  # the control goes on from the given weights
        (GIVEN, ["dense.control=true"], False),
        (GIVEN | {"dense": {"control": True, "epochs": 3}}, [], True),
        (GIVEN | {"dense": {"control": True}, "tune": {"start": "rewind"}}, [], True),
    ],
)
def test_a_control_alone_brings_no_dense_training_where_nothing_starts_from_one(
    tmp_path, extra, sets, enabled
):
    import tomlkit

    (tmp_path / "job.toml").write_text(tomlkit.dumps(SMALL | extra))
    recipe = recipes.load(tmp_path / "job.toml", sets)
    assert recipe.dense.enabled == enabled
    assert recipes.load(recipe) == recipe


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"prun": {}}, r'unknown section or key "prun"; did you mean "prune"\?'),
        ({"prune": {"densty": 0.1}}, r'unknown key in \[prune\] "densty"; did you mean "density"\?'),
        ({"lr": 0.1}, r"lr belongs into a section, such as \[train\]"),
        ({"model": {"nam": "x"}}, r'unknown key in \[model\] "nam"; did you mean "name"\?'),
        ({"model": {}}, r"\[model\] name is missing"),
        ({"prune": 3}, r"prune must be a section"),
        ({"train": {"batch": "x"}}, r'\[train\] batch = "x" must be a whole number'),
        ({"train": {"epochs": 3.5}}, r"\[train\] epochs = 3.5 must be a whole number"),
        ({"train": {"epochs": True}}, r"\[train\] epochs = true must be a whole number"),
        ({"train": {"lr": "0.1"}}, r'\[train\] lr = "0.1" must be a number'),
        ({"train": {"lr": float("nan")}}, r"lr = nan must be finite"),
        ({"train": {"milestones": 3}}, r"milestones = 3 must be a list"),
        ({"train": {"milestones": [3, 2]}}, r"must be rising"),
        ({"train": {"optimizer": "sdg"}}, r'unknown \[train\] optimizer "sdg"; did you mean "sgd"\?'),
        ({"train": {"warmup": 20}}, r"warmup = 20 must be shorter than epochs = 20"),
        ({"train": {"device": "gpu"}}, r"must be auto, cpu, cuda or cuda:N"),
        ({"prune": {"batch": 0}}, r"\[prune\] batch = 0 is out of range; it must be 1 or more"),
        (
            {"prune": {"density": 0}},
            r"\[prune\] density = 0.0 is out of range; it must be above 0 and at most 1",
        ),
        ({"prune": {"density": 1.5}}, r"\[prune\] density = 1.5 is out of range"),
        ({"prune": {"weights": "given"}}, r"wants \[model\] weights"),
        ({"prune": {"weights": "dense"}}, r"wants a \[dense\] section"),
        ({"tune": {"start": "rewind"}}, r"wants a \[dense\] section to rewind to"),
        ({"tune": {"tied": True, "enabled": False}}, r"tied = true wants"),
        ({"export": {"enabled": False}}, r"\[verify\] wants \[export\]"),
        ({"verify": {"samples": "many"}}, r'must be 1 or more, or "all"'),
        ({"data": {"name": "digits", "std": [0.0], "mean": [0.0]}}, r"must be above 0"),
        ({"seed": -1}, r"seed = -1 is out of range"),
    ],
)
def test_a_wrong_recipe_is_told_in_one_sentence(extra, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(extra)
    assert str(caught.value).startswith("job.toml: ")
    assert "\n" not in str(caught.value)


def test_unknown_keys_are_reported_before_missing_ones():
    with pytest.raises(InputError, match="unknown"):
        recipes.parse({"prune": {"densty": 1}}, "job.toml", Path("/"))


def test_paths_are_relative_to_the_recipe(tmp_path):
    (tmp_path / "job.toml").write_text(
        '[model]\nname = "net:make"\nweights = "w.th"\n[data]\nname = "npz:sub/data.npz"\n'
    )
    recipe = recipes.load(tmp_path / "job.toml")
    assert recipe.model.weights == str(tmp_path / "w.th")
    assert recipe.data.name == f"npz:{tmp_path / 'sub/data.npz'}"
    assert recipe.folder == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("prune.density=0.1", [0.1]),
        ("prune.density=0.1,0.05", [0.1, 0.05]),
        ("prune.density=[0.1, 0.05]", [0.1, 0.05]),
        ("prune.density=1", [1.0]),
    ],
)
def test_several_values_for_a_key_of_one_are_a_sweep(text, values):
    assert [recipe.prune.density for _, recipe in recipes.sweep("digits", [text])] == values


def test_overrides_are_toml_or_bare_strings_as_the_field_wants():
    sets = ["prune.method=magnitude", 'tune.start="init"', "prune.exclude=fc3*,fc1*", "model.name=123"]
    recipe = recipes.load("digits", [*sets, "tune.tied=false", "verify.samples=all"])
    assert (recipe.prune.method, recipe.tune.start, recipe.model.name) == ("magnitude", "init", "123")
    assert recipe.prune.exclude == ("fc3*", "fc1*")
    assert (recipe.tune.tied, recipe.verify.samples) == (False, "all")
    assert recipes.load("digits", ["verify.samples=12"]).verify.samples == 12


def test_two_sweeps_multiply_and_name_their_runs():
    members = recipes.sweep("digits", ["prune.density=0.1,0.05", "seed=0,1", "tune.epochs=3"])
    assert [name for name, _ in members] == [
        "prune.density=0.1,seed=0",
        "prune.density=0.1,seed=1",
        "prune.density=0.05,seed=0",
        "prune.density=0.05,seed=1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune.densty=1", 'unknown key "prune.densty"; did you mean "prune.density"'),
        ("density=1", 'did you mean "prune.density"'),
        ("prune.density", "an override is KEY=VALUE"),
        ("prune.density=", "an override is KEY=VALUE"),
        ("prune.density=[]", "an empty list"),
        ("train.epochs=many", r'\[train\] epochs = "many" must be a whole number'),
    ],
)
def test_a_wrong_override_is_told_in_one_sentence(text, message):
    with pytest.raises(InputError, match=message):
        recipes.sweep("digits", [text])


def test_an_unknown_recipe_is_told_with_the_nearest_name():
    with pytest.raises(InputError, match='unknown recipe "digit"; did you mean "digits"'):
        recipes.load("digit")


def test_a_file_that_is_not_toml_or_not_there_is_an_input_error(tmp_path):
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(InputError, match="not valid TOML"):
        recipes.load(tmp_path / "bad.toml")
    with pytest.raises(InputError, match="cannot be read"):
        recipes.load(tmp_path / "absent.toml")
