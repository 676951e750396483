"""The training loop: schedules, determinism, resume, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import compressor
from compressor import optimizers, train
from compressor.data import Data, load
from compressor.errors import FormatError, HostError, InputError
from compressor.models import build
from compressor.recipe import Train

QUICK = Train(epochs=6, batch=100)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", data_dir=Path("nowhere"))


def network(digits: Data) -> nn.Module:
    return build("lenet-300-100", shape=digits.shape, classes=digits.classes, seed=1)


def test_e9_the_author_s_cosine() -> None:
    def author(base: float, scale: float, epochs: int, t: int) -> float:
        return optimizers.learning_rate(Train(lr=base, cosine_scale=scale, epochs=epochs + 1), t, 1)

    assert [round(author(0.05, 1.06, 160, t), 8) for t in (0, 40, 80, 159)] == [
        0.05,
        0.0435233,
        0.027449,
        0.00057369,
    ]
    assert [round(author(0.35, 1.02, 90, t), 8) for t in (45, 89)] == [0.18334835, 0.00146065]


def test_warm_up_is_linear_and_multistep_multiplies() -> None:
    warm = Train(lr=1.0, warmup=1, epochs=3)
    assert [optimizers.learning_rate(warm, step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    steps = Train(lr=1.0, schedule="multistep", milestones=(1, 2), epochs=3)
    assert [round(optimizers.learning_rate(steps, step, 2), 6) for step in range(6)] == [
        1,
        1,
        0.1,
        0.1,
        0.01,
        0.01,
    ]
    assert optimizers.learning_rate(Train(lr=0.3, schedule="constant"), 99, 2) == 0.3
    with pytest.raises(InputError, match='did you mean "cosine"'):
        optimizers.learning_rate(Train(schedule="cosin"), 0, 1)


def test_a_restarted_cosine_ends_at_zero_twice() -> None:
    settings = Train(lr=1.0, epochs=10)
    rates = [optimizers.learning_rate(settings, step, 10, restart=80) for step in range(100)]
    assert rates[79] < 0.001
    assert rates[80] == 1.0
    assert rates[99] < 0.01


def test_a_last_batch_of_one_sample_is_left_out() -> None:
    assert [optimizers.steps_per_epoch(n, 10) for n in (10, 11, 12, 20, 1)] == [1, 1, 2, 2, 1]
    assert optimizers.steps_per_epoch(3, 1) == 3


def test_training_learns_and_repeats_to_the_same_bits(digits: Data) -> None:
    runs = []
    for _ in range(2):
        model = network(digits)
        torch.rand(3)
        epochs, _ = train.fit(model, digits, QUICK, seed=0, stage="dense")
        runs.append((epochs, model.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][key], runs[1][1][key]) for key in runs[0][1])
    assert runs[0][0][-1].accuracy > 0.9
    other = network(digits)
    assert train.fit(other, digits, QUICK, seed=1, stage="dense")[0] != runs[0][0]


class StopError(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("kind", ["none", "hold", "asni", "tied"])
def test_a_stopped_training_goes_on_to_the_same_bits(
    digits: Data, tmp_path: Path, kind: str, optimizer: str
) -> None:
    settings = replace(QUICK, optimizer=optimizer, lr=0.05 if optimizer == "sgd" else 1e-3)
    mask = compressor.prune(network(digits), "magnitude", density=0.2)
    attach = {
        "none": None,
        "hold": lambda m, o, _t, _p: compressor.hold(m, o, mask),
        "asni": lambda m, o, t, p: compressor.asni(m, o, density=0.1, steps=t, every=p, end=1.0),
        "tied": lambda m, o, t, _p: compressor.tied(m, o, mask, steps=t),
    }[kind]

    def stop(epoch: train.Epoch, _: nn.Module) -> None:
        if epoch.epoch == 3:
            raise StopError

    whole = network(digits)
    train.fit(whole, digits, settings, seed=0, stage="x", attach=attach)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(StopError):
        train.fit(
            network(digits),
            digits,
            settings,
            seed=0,
            stage="x",
            attach=attach,
            checkpoint=path,
            on_epoch=stop,
        )
    again = network(digits)
    seen: list[int] = []
    epochs, _ = train.fit(
        again,
        digits,
        settings,
        seed=0,
        stage="x",
        attach=attach,
        checkpoint=path,
        on_epoch=lambda e, _: seen.append(e.epoch),
    )
    assert seen == [3, 4, 5]
    assert [epoch.epoch for epoch in epochs] == [0, 1, 2, 3, 4, 5]
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in whole.state_dict().items())


def test_a_damaged_checkpoint_is_named(digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"nonsense")
    with pytest.raises(FormatError, match=r"checkpoint\.pt"):
        train.fit(network(digits), digits, QUICK, seed=0, stage="x", checkpoint=path)


def test_a_training_that_diverges_says_what_to_lower(digits: Data) -> None:
    with pytest.raises(InputError, match="lower lr"):
        train.fit(network(digits), digits, replace(QUICK, lr=1e30), seed=0, stage="dense")


def test_unknown_optimisers_and_devices_are_refused(digits: Data) -> None:
    with pytest.raises(InputError, match='did you mean "adamw"'):
        optimizers.make_optimizer(network(digits), Train(optimizer="adamww"))
    with pytest.raises(InputError, match="unknown device"):
        optimizers.pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(HostError, match="no CUDA device"):
            optimizers.pick_device("cuda")
