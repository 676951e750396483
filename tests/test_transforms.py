"""fold_dead and order_units: which networks they may touch, what they do, and that the function stays."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from nets import change, convolutional, lenet, masked, noise, rows, seeded
from torch import nn

import compressor
from compressor import fold_dead, order_units
from compressor.errors import InputError, VerificationError
from compressor.transforms import Layer
from compressor.transforms.proof import prove

CHAINS = {
    "lenet": (lenet, (6, 1, 4, 4)),
    "sigmoid": (lambda: lenet(nn.Sigmoid), (6, 1, 4, 4)),
    "gelu": (lambda: lenet(nn.GELU), (6, 1, 4, 4)),
    "conv": (convolutional, (6, 1, 12, 12)),
    "padded conv": (lambda: convolutional(padding=1), (6, 1, 12, 12)),
    "conv without bias": (lambda: convolutional(bias=False), (6, 1, 12, 12)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_both_transforms_keep_the_function_and_the_proof_says_so(name):
    build, shape = CHAINS[name]
    model, mask = masked(seeded(build))
    x = noise(*shape)
    folded = fold_dead(model, mask, x)
    ordered = order_units(folded.model, folded.mask, x)
    assert folded.dropped == mask.kept - folded.mask.kept > 0
    assert ordered.mask.kept == folded.mask.kept
    assert {layer.name for layer in ordered.layers} <= set(mask)
    assert change(model, folded.model, x) < 1e-6
    assert change(folded.model, ordered.model, x) < 1e-14
    for done in (folded, ordered):
        assert done.proof.samples == len(x)
        assert done.proof.ratio <= 16
        assert done.proof.agreement == 1
        assert done.proof.error < 1e-13
        assert done.proof.relative < 1e-5
    last = list(mask)[-1]
    assert ordered.left == {last: "its units are an output of the network"}
    for layer in list(mask)[:-1]:
        assert rows(ordered.mask, layer) == sorted(rows(ordered.mask, layer), reverse=True)


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=5),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([nn.ReLU, nn.Sigmoid, nn.Hardswish]),
    st.integers(0, 10**6),
)
def test_random_masks_of_random_chains_keep_their_logits(sizes, density, empty, activation, seed):
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), activation())]
    model, mask = masked(seeded(lambda: nn.Sequential(*layers[:-1]), seed), density, empty, seed)
    x = noise(5, sizes[0])
    folded = fold_dead(model, mask, x)
    ordered = order_units(folded.model, folded.mask, x)
    with torch.no_grad():
        wanted = model(x)
        assert torch.allclose(folded.model(x), wanted, rtol=1e-4, atol=1e-5)
        assert torch.allclose(ordered.model(x), wanted, rtol=1e-4, atol=1e-5)
    again = fold_dead(folded.model, folded.mask, x)
    assert again.mask == folded.mask
    assert not again.layers


def test_the_caller_s_network_its_modes_and_the_generators_are_untouched():
    model, mask = masked(seeded(convolutional))
    model[1].train()
    model.train(True)
    model[4].eval()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    done = order_units(model, mask, noise(4, 1, 12, 12))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert [m.training for m in done.model.modules()] == [m.training for m in model.modules()]
    assert done.model is not model
    assert list(done.model.state_dict()) == list(before)
    assert done.model[0].weight.requires_grad


def test_what_is_ordered_stays_as_it_is():
    model, mask = masked(seeded(convolutional))
    x = noise(4, 1, 12, 12)
    once = order_units(model, mask, x)
    twice = order_units(once.model, once.mask, x)
    assert once.layers
    assert not twice.layers
    assert twice.mask == once.mask
    assert twice.proof.error == 0


def test_equal_rows_keep_their_order_and_biases_go_along():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    model[0].weight.data = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 2, 2], [3, 3, 0]]).float()
    model[0].bias.data = torch.tensor([10.0, 11, 12, 13])
    model[2].weight.data = torch.tensor([[1.0, 2, 3, 4]])
    done = order_units(model, compressor.find_mask(model), noise(4, 3))
    assert done.model[0].weight.tolist() == [[3, 3, 0], [1, 0, 0], [0, 1, 1], [0, 2, 2]]
    assert done.model[0].bias.tolist() == [13, 11, 10, 12]
    assert done.model[2].weight.tolist() == [[4, 2, 1, 3]]
    assert done.layers == (Layer("0.weight", moved=3),)


class Functional(nn.Module):
    """Two inputs, a view, functional activations and a buffer that nobody may touch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.first = nn.Linear(5 * 16, 9)
        self.second = nn.Linear(9, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x, scale):
        h = F.relu6(self.norm(self.conv(x * scale)), inplace=True)
        h = F.dropout(h, training=self.training).view(len(x), -1)
        h = F.leaky_relu(self.first(h)) * 2 + 0.5
        return self.out(F.silu(self.second(h)).clone())


def test_functional_code_with_several_inputs_is_one_chain():
    model, mask = masked(seeded(Functional))
    inputs = (noise(8, 1, 6, 6), torch.tensor(0.5).expand(8, 1, 1, 1).clone())
    data = [
        ((inputs[0][:5], inputs[1][:5]), torch.zeros(5)),
        ((inputs[0][5:], inputs[1][5:]), torch.zeros(3)),
    ]
    folded = fold_dead(model, mask, data)
    done = order_units(folded.model, folded.mask, data)
    assert done.proof.samples == 8
    assert set(done.left) == {"out.weight"}
    assert [layer.name for layer in done.layers] == ["conv.weight", "first.weight", "second.weight"]
    assert change(model, done.model, *inputs) < 1e-6


def test_a_float64_and_a_bfloat16_network_are_proved_as_tightly():
    for dtype in (torch.float64, torch.bfloat16):
        model, mask = masked(seeded(lambda dtype=dtype: lenet(nn.Sigmoid).to(dtype)))
        folded = fold_dead(model, mask, noise(4, 1, 4, 4))
        assert folded.dropped > 0
        assert folded.proof.error < 1e-15
        assert {tensor.dtype for tensor in folded.model.state_dict().values()} == {dtype}


def test_weights_in_another_memory_order_are_transformed_alike():
    model, mask = masked(seeded(convolutional))
    x = noise(4, 1, 12, 12)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    wanted, done = fold_dead(model, mask, x), fold_dead(last, mask, x)
    assert done.mask == wanted.mask
    assert done.layers == wanted.layers
    assert order_units(last, mask, x).mask == order_units(model, mask, x).mask


def test_a_transform_that_is_off_by_float32_s_rounding_is_refused():
    model, _ = masked(seeded(lenet))
    wrong = copy.deepcopy(model).double()
    wrong[5].bias.data *= 1 + 2.0**-26
    with pytest.raises(VerificationError, match="of float64's rounding where 16 are allowed"):
        prove(model, wrong, model, [(noise(64, 1, 4, 4),)])


def test_what_does_not_fit_is_one_sentence():
    model, mask = masked(seeded(lenet))
    x = noise(4, 1, 4, 4)
    for transform in (fold_dead, order_units):
        with pytest.raises(InputError, match="does not fit the weight"):
            transform(model, {"1.weight": torch.ones(2, 2) > 0}, x)
        with pytest.raises(InputError, match="a pruned weight is not zero"):
            transform(seeded(lenet, seed=9), mask, x)
        with pytest.raises(InputError, match="the iterable is empty"):
            transform(model, mask, [])
        with pytest.raises(InputError, match=r"torch\.export cannot trace it"):
            transform(model, mask, noise(4, 5))
        with pytest.raises(InputError, match="are not finite"):
            transform(model, mask, x * float("nan"))


class Moody(nn.Module):
    """What torch cannot trace: a branch on a value."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.b(self.a(x).relu()) if x.sum() > 0 else self.b(x)


def test_a_network_that_cannot_be_traced_is_one_sentence(capfd):
    model, mask = masked(seeded(Moody))
    with pytest.raises(InputError, match=r"^Moody: torch\.export cannot trace it") as caught:
        fold_dead(model, mask, noise(4, 3))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
