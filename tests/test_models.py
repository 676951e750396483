import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compressor.errors import InputError
from compressor.models import MODELS, build, load_weights, state_of

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
# Parameter counts of papers/asni.md 4.1, and of the ResNet-20 of another author (its README).
COUNTS = [
    ("lenet-300-100", MNIST, 266_610),
    ("conv2", MNIST, 3_317_450),
    ("conv2", CIFAR, 4_301_642),
    ("conv4", MNIST, 1_933_258),
    ("conv4", CIFAR, 2_425_930),
    ("conv6", MNIST, 1_802_698),
    ("conv6", CIFAR, 2_262_602),
    ("vgg11", CIFAR, 9_231_114),
    ("vgg13", CIFAR, 9_416_010),
    ("vgg16", CIFAR, 14_728_266),
    ("vgg19", CIFAR, 20_040_522),
    ("resnet20", CIFAR, 269_722),
]


def small(**options):
    return build("lenet-300-100", shape=(1, 8, 8), classes=10, seed=0, **options)


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))


@pytest.mark.parametrize(("name", "shape", "count"), COUNTS)
def test_parameter_counts_are_those_of_the_sheet(name, shape, count):
    model = build(name, shape=shape, classes=10, seed=0)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("name", MODELS)
def test_every_network_maps_images_to_logits(name):
    model = build(name, shape=CIFAR, classes=7, seed=0).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, *CIFAR)).shape == (2, 7)


def test_lenet_has_266_200_weights_in_three_layers():
    model = build("lenet-300-100", shape=MNIST, classes=10, seed=0)
    assert [name for name, _ in model.named_parameters() if "weight" in name] == [
        f"fc{i}.weight" for i in (1, 2, 3)
    ]
    assert sum(p.numel() for p in model.parameters() if p.dim() > 1) == 266_200


@pytest.mark.parametrize("name", ["lenet-300-100", "conv2", "resnet20"])
def test_the_seed_alone_decides_the_weights(name):
    state = torch.get_rng_state()
    one, again, other = (build(name, shape=CIFAR, classes=10, seed=s).state_dict() for s in (3, 3, 4))
    assert same(one, again)
    assert not same(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_kaiming_normal_and_biases_zero():
    model = build("conv4", shape=CIFAR, classes=10, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            assert module.weight.detach().std() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
            assert not module.bias.any()


def test_a_trained_resnet20_of_another_author_loads_and_answers_as_it_did_there(data_dir):
    folder = data_dir / "resnet20"
    if not folder.is_dir():
        pytest.skip("no resnet20 in the data folder")
    model = build("resnet20", shape=CIFAR, classes=10, seed=0).eval()
    with np.load(folder / "resnet20.npz") as weights:
        model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights})
    with np.load(folder / "cifar10-test1000.npz") as images:
        x, logits = torch.from_numpy(images["x_test"][:64]), torch.from_numpy(images["logits"][:64])
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        assert torch.allclose(model((x.float() / 255 - mean) / std), logits, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_torchvision_networks_get_the_classes_of_the_data(name):
    state = torch.get_rng_state()
    model = build(f"torchvision:{name}", shape=(3, 64, 64), classes=7, seed=0).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert torch.equal(torch.get_rng_state(), state)


FACTORIES = """
import torch
from torch import nn

def plain():
    return nn.Linear(4, 2)

def asked(classes, shape, width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], width), nn.Linear(width, classes))

def usual(num_classes):
    return nn.Linear(4, num_classes)

def kept(num_classes=9):
    return nn.Linear(4, num_classes)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

def demanding(depth):
    return nn.Linear(4, depth)

def broken():
    raise ValueError("no luck")

def nothing():
    return None
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "nets.py").write_text(FACTORIES)
    (tmp_path / "halfnets.py").write_text("import no_such_package\n")
    (tmp_path / "badnets.py").write_text("def (\n")
    return [tmp_path]


@pytest.mark.parametrize(
    ("name", "outputs"), [("plain", None), ("asked", 5), ("usual", 5), ("kept", 9), ("Net", None)]
)
def test_a_factory_gets_shape_and_classes_only_where_it_asks(mine, name, outputs):
    one, two = (build(f"nets:{name}", shape=(4,), classes=5, seed=1, search=mine) for _ in range(2))
    assert same(one.state_dict(), two.state_dict())
    if outputs is not None:
        assert one(torch.zeros(1, 4)).shape == (1, outputs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets:demanding", "wants depth"),
        ("nets:broken", "raised ValueError: no luck"),
        ("nets:nothing", "returned NoneType"),
        ("nets:plian", 'did you mean "plain"'),
        ("gone:plain", "no module gone"),
        ("halfnets:plain", "needs the package no_such_package"),
        ("badnets:plain", "does not import"),
        ("lenet-300", 'did you mean "lenet-300-100"'),
        ("torchvision:resnet19", 'did you mean "resnet'),
        ("conv6", "at least 8x8"),
    ],
)
def test_a_name_that_gives_no_network_is_refused(mine, name, message):
    with pytest.raises(InputError, match=message):
        build(name, shape=(4,), classes=5, seed=0, search=mine)


def checkpoints():
    state = {f"module.{name}": tensor for name, tensor in small().state_dict().items()}
    yield "plain", small().state_dict()
    yield "data-parallel", {"state_dict": state, "best_prec1": 91.7, "epoch": 3}
    yield "nested", {"checkpoint": 1, "model": {"state_dict": state}}
    yield "compiled", {"net": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}}
    yield "numpy", {"model_state_dict": state, "acc": np.float64(91.7), "args": argparse.Namespace(lr=0.1)}


@pytest.mark.parametrize(("kind", "content"), list(checkpoints()))
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_found_inside_a_checkpoint(tmp_path, kind, content, zipped):
    path = tmp_path / f"{kind}.th"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert same(state_of(path), small().state_dict())
    model = build("lenet-300-100", shape=(1, 8, 8), classes=10, seed=9)
    load_weights(model, path)
    assert same(model.state_dict(), small().state_dict())


def test_safetensors_are_read_even_where_their_first_byte_is_that_of_a_pickle(tmp_path):
    path, seen = tmp_path / "net.safetensors", set()
    for length in range(0, 300, 8):
        save_file({"w": torch.ones(2)}, path, metadata={"note": "x" * length})
        seen.add(path.read_bytes()[0])
        assert torch.equal(state_of(path)["w"], torch.ones(2))
    assert 0x80 in seen


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", [{"state_dict": {}, "extra": Evil()}, small()])
def test_a_pickle_that_wants_code_is_refused_and_nothing_runs(tmp_path, monkeypatch, content, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="wants to run"):
        state_of("evil.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_that_wants_code_is_refused_in_the_same_words(tmp_path, protocol):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"state_dict": {}, "extra": Evil()}, protocol))
    with pytest.raises(InputError, match=r"wants to run posix\.system"):
        state_of(path)


def test_a_truncated_checkpoint_is_refused_wherever_it_is_cut(tmp_path):
    path = tmp_path / "net.pt"
    for zipped in (True, False):
        torch.save(small().state_dict(), path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for cut in (0, 1, 9, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:cut])
            with pytest.raises(InputError, match=r"net\.pt"):
                state_of(path)
    save_file(small().state_dict(), path)
    for cut in (8, 9, 100, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(InputError, match=r"net\.pt"):
            state_of(path)


def change(**changes):
    state = small().state_dict() | changes
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            change(**{"fc1.weight": None, "fc9.weight": torch.ones(1)}),
            r"missing fc1\.weight; unexpected fc9\.weight",
        ),
        (
            change(**{"fc1.weight": torch.ones(300, 63)}),
            r"\(300, 63\) in the file, \(300, 64\) in the network",
        ),
        (change(**{"fc3.bias": torch.full((10,), torch.nan)}), r"fc3\.bias holds NaN"),
        ({"epoch": torch.ones(1), "fc": {"a": 1}}, "holds no state dict"),
        ({}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, state, message):
    torch.save(state, tmp_path / "net.pt")
    model = small()
    with pytest.raises(InputError, match=message):
        load_weights(model, tmp_path / "net.pt")
    assert same(model.state_dict(), small().state_dict())


def test_a_long_list_of_differences_is_cut_short(tmp_path):
    torch.save({"features.0.weight": torch.ones(1)}, tmp_path / "net.pt")
    with pytest.raises(InputError, match="and 3 more"):
        load_weights(small(), tmp_path / "net.pt")


def test_shared_weights_and_old_batch_norms_may_be_absent(tmp_path):
    def make():
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        return model

    torch.manual_seed(0)
    given, model = make(), make()
    absent = ("2.weight", "1.num_batches_tracked")
    torch.save({n: t for n, t in given.state_dict().items() if n not in absent}, tmp_path / "net.pt")
    load_weights(model, tmp_path / "net.pt")
    assert same(model.state_dict(), given.state_dict())


def test_a_packed_file_gives_its_weights_back(tmp_path):
    from compressor.packed import pack

    pack(small(), tmp_path / "net.safetensors")
    assert same(state_of(tmp_path / "net.safetensors"), small().state_dict())
