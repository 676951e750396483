"""fold_dead: what it does to units that read or feed nothing, worked out by hand."""

import torch
from nets import lenet, masked, noise, seeded
from torch import nn

import compressor
from compressor import fold_dead, order_units
from compressor.transforms import Layer
from compressor.weights import Mask, prunable


def test_a_chain_of_constants_folds_to_the_end_and_the_numbers_are_these():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    values = {
        "0.weight": [[0, 0], [1, -1]],
        "0.bias": [3, 0.5],
        "2.weight": [[2, 0], [0, 4]],  # its first unit reads a constant only, its second the living unit
        "2.bias": [1, -1],
        "4.weight": [[5, 1]],
        "4.bias": [0.25],
    }
    model.load_state_dict({name: torch.tensor(value).float() for name, value in values.items()})
    mask = compressor.find_mask(model)
    done = fold_dead(model, mask, noise(4, 2))
    state = {name: tensor.tolist() for name, tensor in done.model.state_dict().items()}
    assert state == {
        "0.weight": [[0, 0], [1, -1]],
        "0.bias": [0, 0.5],
        "2.weight": [[0, 0], [0, 4]],
        "2.bias": [0, -1],
        "4.weight": [[0, 1]],
        "4.bias": [0.25 + 5 * (2 * 3 + 1)],
    }
    assert done.layers == (
        Layer("0.weight", folded=1),
        Layer("2.weight", folded=1, dropped=1),
        Layer("4.weight", dropped=1),
    )
    assert {name: kept for name, (kept, _) in done.mask.per_layer().items()} == {
        "0.weight": 2,
        "2.weight": 1,
        "4.weight": 1,
    }


def test_units_that_feed_nothing_go_back_to_the_inputs():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    model, mask = masked(seeded(lambda: model), density=2, empty=0)
    mask = Mask(
        {
            "0.weight": mask["0.weight"],
            "2.weight": torch.eye(2) > 0,
            "4.weight": torch.tensor([[True, False]]),
        }
    )
    mask.apply_(model)
    done = fold_dead(model, mask, noise(4, 2))
    assert done.layers == (
        Layer("0.weight", removed=1, dropped=2),
        Layer("2.weight", removed=1, dropped=1),
    )
    assert done.model[0].bias[1] == 0
    assert done.model[2].bias[1] == 0
    assert torch.equal(done.model[4].bias, model[4].bias)
    assert done.proof.change == 0


def test_two_level_weights_stay_two_level_and_are_packed_so(tmp_path):
    model, mask = masked(seeded(lenet))
    levels = compressor.centroids(model, mask)
    compressor.to_levels(model, mask, levels)
    x = noise(4, 1, 4, 4)
    folded = fold_dead(model, mask, x)
    done = order_units(folded.model, folded.mask, x)
    for name, pair in levels.items():
        values = set(done.model.get_parameter(name)[done.mask[name]].tolist())
        assert values <= {torch.tensor(level).item() for level in pair}
    sizes = compressor.pack(done.model, tmp_path / "net", mask=done.mask, format="asni2")
    assert sizes.file < compressor.pack(model, tmp_path / "before", mask=mask, format="asni2").file
    twin = seeded(lenet, seed=5)
    compressor.load(twin, tmp_path / "net")
    assert torch.equal(twin(x), done.model(x))


def test_a_norm_takes_constants_where_there_is_no_bias_and_dead_channels_become_zeros():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 2, 1, bias=False),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * 4, 2),
    )
    model = seeded(lambda: model)
    model[1].bias.data.fill_(2.0)
    model[1].running_mean.zero_()
    model[3].weight.data.fill_(1.0)
    mean = model[4].running_mean.clone()
    mask = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    mask["0.weight"][1] = False
    Mask(mask).apply_(model)
    done = fold_dead(model, mask, noise(3, 1, 2, 2))
    assert torch.allclose(done.model[4].running_mean, mean - 2)
    assert [float(done.model[1].state_dict()[key][1]) for key in ("weight", "bias", "running_mean")] == [
        0
    ] * 3
    assert float(done.model[1].running_var[1]) == 0
    assert done.layers == (Layer("0.weight", folded=1), Layer("3.weight", dropped=2))


def test_a_constant_before_zero_padding_is_folded_only_if_it_is_zero():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1), nn.Flatten())
    model, mask = masked(seeded(lambda: model), density=2, empty=0)
    kept = {name: mask[name] for name in mask}
    kept["0.weight"][:2] = False
    Mask(kept).apply_(model)
    model[0].bias.data = torch.tensor([0.5, -0.5, 0.1])
    done = fold_dead(model, kept, noise(3, 1, 6, 6))
    assert done.layers == (Layer("0.weight", folded=1), Layer("2.weight", dropped=2 * 9))
    assert not bool(done.mask["2.weight"][:, 1].any())
    assert done.left["0.weight"] == "1 of its units, though constant: not 0, and 2.weight pads with zeros"
    assert done.proof.change == 0


def test_a_constant_that_padding_on_the_way_makes_uneven_stays_before_a_convolution_only():
    def build(last):
        return nn.Sequential(nn.Conv2d(1, 2, 1), nn.AvgPool2d(3, padding=1), *last)

    for last, dropped in (
        ((nn.Conv2d(2, 1, 1), nn.Flatten()), 0),
        ((nn.Flatten(), nn.Linear(2 * 4, 1)), 4),
    ):
        model, _ = masked(seeded(lambda last=last: build(last)), density=2, empty=0)
        mask = {name: torch.ones_like(weight) > 0 for name, weight in prunable(model).items()}
        mask["0.weight"][1] = False
        Mask(mask).apply_(model)
        done = fold_dead(model, mask, noise(3, 1, 6, 6))
        assert done.dropped == dropped
        assert ("not the same at every place" in done.left.get("0.weight", "")) == (not dropped)


class Fork(nn.Module):
    """Channels that a padded convolution and another one read; of the padded one only the first unit is read."""

    def __init__(self):
        super().__init__()
        self.stem, self.padded = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, padding=1)
        self.behind, self.beside = nn.Conv2d(2, 1, 1), nn.Conv2d(2, 1, 1)

    def forward(self, x):
        h = self.stem(x)
        return self.behind(self.padded(h).relu()), self.beside(h)


def test_what_one_removal_allows_is_folded_in_the_next_pass():
    model, _ = masked(seeded(Fork), density=2, empty=0)
    mask = {name: torch.ones_like(weight) > 0 for name, weight in prunable(model).items()}
    mask["stem.weight"][1] = False
    mask["padded.weight"][0, 1] = False
    mask["behind.weight"][0, 1] = False
    Mask(mask).apply_(model)
    done = fold_dead(model, mask, noise(3, 1, 4, 4))
    assert done.layers == (
        Layer("stem.weight", folded=1),
        Layer("padded.weight", removed=1, dropped=2 * 9),
        Layer("beside.weight", dropped=1),
    )
    assert set(done.left) == {"behind.weight", "beside.weight"}


def test_a_constant_that_nothing_can_take_stays():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1, bias=False))
    model, _ = masked(seeded(lambda: model), density=2, empty=0)
    mask = {"0.weight": torch.tensor([[True, True], [False, False]]), "2.weight": torch.ones(1, 2) > 0}
    Mask(mask).apply_(model)
    done = fold_dead(model, mask, noise(3, 2))
    assert not done.layers
    assert "neither a bias of its own nor a batch norm" in done.left["0.weight"]


def test_a_unit_that_one_of_its_readers_cannot_take_stays_for_all():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left = nn.Linear(2, 2), nn.Linear(2, 1)
            self.right = nn.Linear(2, 1, bias=False)

        def forward(self, x):
            h = self.stem(x).sigmoid()
            return self.left(h) + self.right(h)

    model, _ = masked(seeded(Two), density=2, empty=0)
    mask = {f"{name}.weight": torch.ones(1, 2) > 0 for name in ("left", "right")}
    mask["stem.weight"] = torch.tensor([[True, True], [False, False]])
    model.stem.weight.data[1] = 0
    done = fold_dead(model, mask, noise(3, 2))
    assert not done.layers
    assert done.left["stem.weight"].startswith("1 of its units, though constant: right.weight has neither")


def test_a_bias_that_the_mask_covers_takes_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1))
    mask = {"0.weight": torch.tensor([[True, True], [False, False]]), "2.weight": torch.ones(1, 2) > 0}
    mask["2.bias"] = torch.zeros(1) > 0
    Mask(mask).apply_(model)
    done = fold_dead(model, mask, noise(3, 2))
    assert not done.layers
    assert "neither a bias of its own" in done.left["0.weight"]


def test_a_norm_without_eps_keeps_the_variance_of_a_channel_that_goes():
    model = seeded(
        lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, eps=0), nn.ReLU(), nn.Linear(2, 1))
    )
    mask = {"0.weight": torch.ones(2, 2) > 0, "3.weight": torch.tensor([[True, False]])}
    Mask(mask).apply_(model)
    done = fold_dead(model, mask, noise(3, 2))
    assert done.layers == (Layer("0.weight", removed=1, dropped=2),)
    assert torch.equal(done.model[1].running_var, model[1].running_var)
    assert not fold_dead(done.model, done.mask, noise(3, 2)).layers


def test_a_wholly_dead_layer_leaves_a_constant_network(tmp_path):
    model, mask = masked(seeded(lenet), density=0.5, empty=0)
    dead = {name: mask[name] for name in mask}
    dead["3.weight"][:] = False
    Mask(dead).apply_(model)
    x = noise(4, 1, 4, 4)
    folded = fold_dead(model, dead, x)
    assert folded.mask.kept == 0
    assert torch.allclose(folded.model(x), model(x))
    ordered = order_units(folded.model, folded.mask, x)
    compressor.pack(ordered.model, tmp_path / "net", mask=ordered.mask)
    compressor.load(lenet(), tmp_path / "net")


class Halves(nn.Module):
    """A unit divided by itself, or by a number."""

    def __init__(self, by_itself: bool) -> None:
        super().__init__()
        self.by_itself = by_itself
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.a(x)
        return self.b(hidden / (hidden if self.by_itself else 2.0))


def test_a_unit_that_something_is_divided_by_stays():
    for by_itself in (True, False):
        model = seeded(lambda by_itself=by_itself: Halves(by_itself))
        with torch.no_grad():
            model.b.weight[:, 1] = 0  # the unit feeds nothing, but as 0 it would make a NaN of 0 / 0
        done = fold_dead(model, compressor.find_mask(model), noise(4, 4))
        assert bool(done.model.a.weight[1].any()) == by_itself
        assert ("a.weight" in done.left) == by_itself
