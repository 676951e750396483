"""Which units the transforms may touch, and which they leave alone, with the reason."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from nets import change, masked, noise, rows, seeded
from torch import nn

from compressor import fold_dead, order_units


def done_to(build, *inputs, dropped=False):
    """Sort, then fold; return the weights whose units may be sorted, and the reasons for the others."""
    model, mask = masked(seeded(build), density=0.6, empty=0.34)
    data = (inputs, torch.zeros(1))
    ordered = order_units(model, mask, data)
    folded = fold_dead(ordered.model, ordered.mask, data)
    assert change(model, ordered.model, *inputs) < 1e-13
    assert change(ordered.model, folded.model, *inputs) < 1e-5
    assert not dropped or folded.dropped
    free = [name for name in mask if name not in ordered.left]
    assert free == [layer.name for layer in ordered.layers]
    for name in free:
        assert rows(ordered.mask, name) == sorted(rows(ordered.mask, name), reverse=True)
    return free, ordered.left


OUTPUT = "its units are an output of the network"


def test_in_a_residual_network_the_inside_of_a_block_is_a_chain_and_its_end_is_not():
    free, left = done_to(torchvision.models.resnet18, noise(3, 3, 40, 40))
    assert free == [f"layer{i}.{j}.conv1.weight" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert {why for name, why in left.items() if name != "fc.weight"} == {
        "its units meet another tensor (add)"
    }
    assert left["fc.weight"] == OUTPUT


class Net(nn.Module):
    """first -> `between` -> second -> third, with whatever a test puts in between."""

    def __init__(self, between, first=None, second=None, flat=False):
        super().__init__()
        self.first = first or nn.Linear(5, 6)
        self.between = between if isinstance(between, nn.Module) else None
        self.code = None if isinstance(between, nn.Module) else between
        self.second = second or nn.Linear(6, 4)
        self.flat, self.third = flat, nn.Linear(4, 2)

    def forward(self, x):
        h = self.first(x)
        h = self.second(self.between(h) if self.between is not None else self.code(self, h))
        return self.third((h.flatten(1) if self.flat else h).relu())


TIED = {
    "layer norm": (lambda: nn.LayerNorm(6), "layer_norm behind it is not known to keep its units apart"),
    "batch statistics": (
        lambda: nn.BatchNorm1d(6, track_running_stats=False),
        "a batch norm behind it is not fixed, or used elsewhere too",
    ),
    "slopes per unit": (lambda: nn.PReLU(6), "prelu behind it is not known to keep its units apart"),
    "softmax": (lambda: nn.Softmax(1), "softmax behind it is not known to keep its units apart"),
    "residual": (
        lambda: lambda net, h: h + net.second(h).sum(),
        "it feeds a weight that is computed, or used",
    ),
    "gate": (lambda: lambda net, h: h * h.sigmoid(), "its units meet another tensor (mul)"),
    "cat": (
        lambda: lambda net, h: torch.cat([h[:, :3], h[:, 3:]], 1),
        "slice behind it is not known to keep its units apart",
    ),
    "flip": (lambda: lambda net, h: h.flip(1), "flip behind it is not known to keep its units apart"),
    "transposed": (
        lambda: lambda net, h: h.t().reshape(len(h), 6),
        "t behind it is not known to keep its units apart",
    ),
    "a constant of its own": (
        lambda: lambda net, h: h * torch.arange(6.0),
        "its units meet another tensor (mul)",
    ),
    "random numbers": (
        lambda: lambda net, h: F.dropout(h, 0.0, training=True),
        "dropout behind it is not known to keep its units apart",
    ),
    "over the units": (
        lambda: lambda net, h: h - h.mean(1, keepdim=True),
        "mean behind it is not known to keep its units apart",
    ),
    "pooled units": (
        lambda: lambda net, h: F.avg_pool1d(h, 3, 1, 1),
        "avg_pool1d behind it is not known to keep its units apart",
    ),
    "the weight read elsewhere": (
        lambda: lambda net, h: h + net.first.bias.sum(),
        "its bias is used elsewhere too",
    ),
    "an infinity of 0": (
        lambda: lambda net, h: h**-1,
        "pow behind it is not known to keep its units apart",
    ),
    "written in place": (
        lambda: lambda net, h: h.mul_(torch.arange(6.0)),
        "its units meet another tensor (mul)",
    ),
}


@pytest.mark.parametrize("name", TIED)
def test_units_that_are_not_kept_apart_are_left_alone(name):
    between, why = TIED[name]
    free, left = done_to(lambda: Net(between()), noise(7, 5))
    assert free == ["second.weight"] if name != "residual" else free == []
    assert left["first.weight"].startswith(why)
    assert left["third.weight"] == OUTPUT


FREE = {
    "in place": lambda net, h: F.relu(F.dropout(h, training=net.training), inplace=True),
    "a view written in place": lambda net, h: (h.view(-1, 6).clamp_(min=0), h)[1],
    "scalars": lambda net, h: (1 - h / 3) * 2 + 0.5,
    "more axes and back": lambda net, h: h.unflatten(1, (6, 1)).unsqueeze(3).flatten(1),
    "a square": lambda net, h: F.relu(h) ** 2,
    "functions": lambda net, h: F.mish(F.elu(F.softplus(F.hardsigmoid(torch.tanh(h))))).abs().sqrt(),
    "shared slope": nn.PReLU(),
    "a norm": nn.BatchNorm1d(6),
    "nothing": nn.Identity(),
    "one type": lambda net, h: h.to(h.dtype).contiguous().clone().detach(),
}


@pytest.mark.parametrize("name", FREE)
def test_units_that_are_kept_apart_are_a_chain(name):
    free, _ = done_to(lambda: Net(FREE[name]), noise(7, 5), dropped=True)
    assert free == ["first.weight", "second.weight"]


PLACES = {
    "flattened": (lambda net, h: F.max_pool2d(h, 2).flatten(1), nn.Linear(6 * 9, 4)),
    "viewed": (lambda net, h: h.relu().view(h.shape[0], -1), nn.Linear(6 * 36, 4)),
    "averaged": (lambda net, h: F.adaptive_avg_pool2d(h, 1).squeeze(3).squeeze(2), nn.Linear(6, 4)),
    "mean": (lambda net, h: h.mean([2, 3]), nn.Linear(6, 4)),
    "largest": (lambda net, h: h.amax((-1, -2)), nn.Linear(6, 4)),
    "with places": (lambda net, h: F.max_pool2d(h, 3, return_indices=True)[0].flatten(1), nn.Linear(24, 4)),
    "padded": (lambda net, h: F.pad(h, (1, 1, 0, 2), value=1.5).flatten(1), nn.Linear(6 * 64, 4)),
    "norm behind": (nn.Sequential(nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(6 * 36)), nn.Linear(6 * 36, 4)),
}


@pytest.mark.parametrize("name", PLACES)
def test_channels_feed_columns_of_a_linear_layer_in_blocks(name):
    between, second = PLACES[name]
    free, _ = done_to(lambda: Net(between, nn.Conv2d(2, 6, 3), second), noise(5, 2, 8, 8), dropped=True)
    assert free == ["first.weight", "second.weight"]


CONVOLUTIONS = {
    "1d": (nn.Conv1d, (9,), "zeros", 0),
    "1d same": (nn.Conv1d, (9,), "zeros", "same"),
    "2d reflected": (nn.Conv2d, (7, 7), "reflect", 1),
    "2d strided": (nn.Conv2d, (7, 7), "zeros", 1),
    "3d": (nn.Conv3d, (5, 5, 5), "circular", 1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_every_rank_feed_each_other(name):
    kind, size, mode, padding = CONVOLUTIONS[name]

    def build():
        first, second = kind(2, 6, 3, padding=1), kind(6, 4, 3, padding=padding, padding_mode=mode)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

    free, left = done_to(build, noise(4, 2, *size))
    assert free == ["0.weight"]
    assert left["2.weight"] == OUTPUT


def test_groups_transposed_and_shared_weights_are_left_alone():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.depth = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6)
            self.b, self.up = nn.Conv2d(6, 5, 1), nn.ConvTranspose2d(5, 4, 2)
            self.c, self.twice = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.d, self.e = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.e.weight = self.d.weight
            self.last = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            h = self.up(self.b(self.depth(self.a(x)).relu()).relu()).relu()
            h = self.twice(self.twice(self.c(h)).relu()).relu()
            return self.last(self.e(self.d(h)))

    elsewhere = "it feeds a weight that is computed, or used elsewhere too"
    unread = "no linear layer or convolution alone reads it in the traced network"
    free, left = done_to(Odd, noise(3, 2, 5, 5))
    assert free == []
    assert left == {
        "a.weight": "it feeds depth.weight, whose channels are grouped",
        "depth.weight": "its channels are grouped",
        "b.weight": "conv_transpose2d behind it is not known to keep its units apart",
        "up.weight": unread,
        "c.weight": elsewhere,
        "twice.weight": unread,
        "d.weight": unread,
        "last.weight": OUTPUT,
    }


class Drifting(nn.BatchNorm1d):
    """Statistics of the batch, in eval mode too, though it has some of its own."""

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=True)


def test_statistics_that_are_of_the_batch_or_shared_tie_the_units():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.first, self.second = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
            self.second.running_mean = self.first.running_mean.view(-1)

        def forward(self, x):
            return self.c(self.second(self.b(self.first(self.a(x)))))

    why = "a batch norm behind it is not fixed, or used elsewhere too"
    free, left = done_to(lambda: Net(Drifting(6)), noise(7, 5))
    assert free == ["second.weight"]
    assert left["first.weight"] == why
    free, left = done_to(Shared, noise(7, 5))
    assert free == []
    assert (left["a.weight"], left["b.weight"]) == (why, why)


def test_a_layer_that_reads_across_the_units_ties_them():
    def build():
        return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Conv1d(6, 4, 1), nn.Flatten(), nn.Linear(24, 2))

    free, left = done_to(build, noise(3, 6, 5))
    assert free == ["2.weight"]
    assert left["0.weight"] == "it feeds 2.weight, which does not read unit by unit"


def test_one_layer_may_feed_several_if_all_are_understood():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Linear(5, 6), nn.BatchNorm1d(6)
            self.left, self.right, self.out = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.stem(x)
            return self.out(self.left(h.relu()) + self.right(self.norm(h).sigmoid())), self.right.bias * 1

    free, left = done_to(lambda: nn.Sequential(Fork(), Pick()), noise(6, 5))
    assert free == ["0.stem.weight"]
    assert left["0.left.weight"] == "its units meet another tensor (add)"
    assert left["0.right.weight"] == "its bias is used elsewhere too"


class Pick(nn.Module):
    def forward(self, both):
        return both[0] + both[1].sum()


def test_the_inside_of_an_encoder_s_feed_forward_is_a_chain_and_attention_is_not():
    free, left = done_to(lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), noise(3, 4, 8))
    assert free == ["linear1.weight"]
    assert set(left) == {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear2.weight"}


def test_weights_outside_the_mask_are_neither_sorted_by_nor_pruned():
    (model, mask), x = masked(seeded(lambda: Net(nn.ReLU()))), noise(6, 5)
    some = {name: mask[name] for name in ("first.weight", "third.weight")}
    folded = fold_dead(model, some, x)
    assert not folded.layers
    assert folded.left["first.weight"] == "it feeds second.weight, which is not in the mask"
    ordered = order_units(model, some, x)
    assert [layer.name for layer in ordered.layers] == ["first.weight"]
    assert change(model, ordered.model, x) < 1e-13


def test_eval_mode_dropout_and_a_second_pass_over_functional_weights_are_seen():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            h = F.linear(x, self.a.weight, self.a.bias).relu()
            return self.c(F.linear(h, self.b.weight) + self.b(h))

    free, left = done_to(Twice, noise(6, 5))
    assert free == []
    assert left["a.weight"] == "it feeds a weight that is computed, or used elsewhere too"
