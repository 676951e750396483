import gzip
import pickle
import shutil
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from compressor.data import Loader, load
from compressor.data.memory import Memory
from compressor.errors import InputError

NOWHERE = Path("no-such-folder")


def write_idx(path, array, squeeze=False):
    data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if squeeze else data)


def write_mnist(folder, squeeze=False, count=20):
    rng = np.random.default_rng(0)
    suffix = ".gz" if squeeze else ""
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images, squeeze)
        write_idx(
            folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count, dtype=np.uint8) % 10, squeeze
        )
    return folder


def write_npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8),
        "y_train": np.arange(12) % 4,
        "x_test": rng.integers(0, 256, (5, 3, 8, 8), dtype=np.uint8),
        "y_test": np.arange(5) % 4,
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return f"npz:{path}"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise URLError("no network")

    for kind in (datasets.MNIST, datasets.CIFAR10):
        monkeypatch.setattr(kind, "download", refuse)


def test_digits_are_split_once_and_for_all_with_every_class_in_proportion():
    first, second = load("digits", data_dir=NOWHERE), load("digits", data_dir=NOWHERE, seed=7)
    assert (len(first.train), len(first.test), first.shape, first.classes) == (1438, 359, (1, 8, 8), 10)
    assert torch.equal(first.test.y, second.test.y)
    assert (first.test.y.bincount() - first.train.y.bincount() / 4).abs().max() <= 1


def test_the_training_split_is_normalised_by_its_own_mean_and_std():
    data = load("digits", data_dir=NOWHERE, validation=0.2)
    x, _ = data.train.take(torch.arange(len(data.train)))
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std(correction=0)) - 1) < 1e-5
    assert x.dtype == torch.float32


def test_validation_is_drawn_from_the_training_split_by_the_seed():
    whole = load("digits", data_dir=NOWHERE)
    one, same, other = (load("digits", data_dir=NOWHERE, validation=0.1, seed=s) for s in (1, 1, 2))
    assert one.validation is not None
    assert len(one.train) + len(one.validation) == len(whole.train)
    assert len(one.validation) == 144
    assert torch.equal(one.validation.y, same.validation.y)
    assert not torch.equal(one.validation.y, other.validation.y)
    counts = one.train.y.bincount() + one.validation.y.bincount()
    assert torch.equal(counts, whole.train.y.bincount())


@pytest.mark.parametrize("share", [-0.1, 1.0, 0.00001])
def test_a_validation_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(InputError, match="digits: "):
        load("digits", data_dir=NOWHERE, validation=share)


@pytest.mark.parametrize("augment", ["none", "crop", "flip", "crop+flip"])
def test_take_is_a_function_of_indices_and_generator_alone(tmp_path, augment):
    data = load(write_npz(tmp_path / "d.npz"), data_dir=NOWHERE, augment=augment)
    places, state = torch.tensor([3, 0, 3, 11]), torch.get_rng_state()
    draws = [data.train.take(places, torch.Generator().manual_seed(5))[0] for _ in range(2)]
    assert torch.equal(*draws)
    plain = [data.train.take(places)[0] for _ in range(2)]
    assert torch.equal(*plain)
    assert torch.equal(draws[0], plain[0]) == (augment == "none")
    assert torch.equal(torch.get_rng_state(), state)
    test = data.test.take(places[:2], torch.Generator().manual_seed(5))[0]
    assert torch.equal(test, data.test.take(places[:2])[0])


def test_crops_are_windows_of_the_image_padded_with_black(tmp_path):
    data = load(write_npz(tmp_path / "d.npz"), data_dir=NOWHERE, augment="crop")
    raw = np.load(tmp_path / "d.npz")["x_train"]
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (data.mean, data.std))
    x, _ = data.train.take(torch.arange(12), torch.Generator().manual_seed(0))
    pixels = ((x * std + mean) * 255).round().to(torch.uint8).numpy()
    for index, crop in enumerate(pixels):
        padded = np.pad(raw[index], ((0, 0), (4, 4), (4, 4)))
        windows = [padded[:, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
        assert any(np.array_equal(crop, window) for window in windows)


def test_flips_are_mirror_images_or_the_image(tmp_path):
    data = load(write_npz(tmp_path / "d.npz"), data_dir=NOWHERE, augment="flip")
    plain, _ = data.train.take(torch.arange(12))
    x, _ = data.train.take(torch.arange(12), torch.Generator().manual_seed(0))
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(x, plain, strict=True)]
    assert all(f or torch.equal(a, b) for f, a, b in zip(flipped, x, plain, strict=True))
    assert 0 < sum(flipped) < 12


def test_sets_too_large_to_normalise_at_once_give_the_same_batches(tmp_path, monkeypatch):
    name = write_npz(tmp_path / "d.npz")
    at_once = load(name, data_dir=NOWHERE, augment="crop+flip")
    monkeypatch.setattr("compressor.data.memory.READY_BELOW", 0)
    batchwise = load(name, data_dir=NOWHERE, augment="crop+flip")
    takes = [
        d.train.take(torch.arange(12), torch.Generator().manual_seed(1))[0] for d in (at_once, batchwise)
    ]
    assert torch.equal(*takes)


def test_a_loader_gives_every_input_in_order_as_often_as_asked():
    data = load("digits", data_dir=NOWHERE)
    loader = Loader(data.test, 100)
    for _ in range(2):
        assert [len(y) for _, y in loader] == [100, 100, 100, 59]
    assert len(loader) == 4
    assert torch.equal(torch.cat([y for _, y in loader]), data.test.y)


@pytest.mark.parametrize("squeeze", [True, False])
@pytest.mark.parametrize("inside", ["MNIST/raw", "."])
def test_idx_files_are_found_in_both_places_squeezed_or_not(tmp_path, squeeze, inside):
    write_mnist(tmp_path / inside, squeeze)
    data = load("mnist", data_dir=tmp_path)
    assert (len(data.train), data.shape, data.classes) == (20, (1, 28, 28), 10)


def test_idx_files_are_read_from_a_folder_that_may_not_be_written(tmp_path):
    folder = write_mnist(tmp_path / "MNIST" / "raw", squeeze=True)
    before = sorted(folder.iterdir())
    load("mnist", data_dir=tmp_path)
    assert sorted(folder.iterdir()) == before


def test_a_damaged_idx_file_is_refused(tmp_path):
    folder = write_mnist(tmp_path / "FashionMNIST" / "raw")
    images = folder / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for damaged in (whole[:-1], whole + b"0", whole[:10], b"", b"\0\0\x0d" + whole[3:]):
        images.write_bytes(damaged)
        with pytest.raises(InputError, match="train-images"):
            load("fashion-mnist", data_dir=tmp_path)
    images.unlink()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-40])
    with pytest.raises(InputError, match="cut short"):
        load("fashion-mnist", data_dir=tmp_path)


def test_idx_labels_out_of_range_and_of_another_number_are_refused(tmp_path):
    folder = write_mnist(tmp_path)
    for wrong, message in ((np.full(20, 10), "label 10 is out of range"), (np.zeros(19), "19 labels for 20")):
        write_idx(folder / "train-labels-idx1-ubyte", wrong.astype(np.uint8))
        with pytest.raises(InputError, match=message):
            load("mnist", data_dir=tmp_path)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("name", "place"), [("mnist", "MNIST/raw"), ("cifar10", "cifar-10-batches-py")])
def test_missing_data_without_a_network_says_where_to_put_it(tmp_path, name, place):
    with pytest.raises(InputError, match=place):
        load(name, data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cifar_is_read_from_the_python_folder_of_which_every_file_is_checked(
    tmp_path, monkeypatch, no_network
):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    sums = {}
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        content = {"data": pixels, "labels": [0, 1, 2, 3, 9, 5], "label_names": list("abcdefghij")}
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = datasets.utils.calculate_md5(folder / name)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", sums["batches.meta"])
    data = load("cifar10", data_dir=tmp_path, mean=(0.0,), std=(1.0,), augment="none")
    x, y = data.train.take(torch.arange(6))
    assert np.array_equal((x * 255).round().numpy().astype(np.uint8), pixels.reshape(6, 3, 32, 32))
    assert y.tolist() == [0, 1, 2, 3, 9, 5]
    assert data.classes == 10
    (folder / "test_batch").write_bytes(b"not the official bytes")
    with pytest.raises(InputError, match="is not whole"):
        load("cifar10", data_dir=tmp_path)


def test_an_npz_is_normalised_by_the_mean_and_std_that_are_given(tmp_path):
    name = write_npz(tmp_path / "d.npz")
    data = load(name, data_dir=NOWHERE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    raw = torch.from_numpy(np.load(tmp_path / "d.npz")["x_test"]).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in (data.mean, data.std))
    x, _ = data.test.take(torch.arange(5))
    assert torch.allclose(x.double(), (raw - mean) / std, atol=1e-6)
    assert data.classes == 4


WRONG = {
    "x_train missing": {"x_train": None},
    "NaN or infinity in input 1": {
        "x_train": np.stack([np.zeros((3, 8, 8)), np.full((3, 8, 8), np.nan), *[np.ones((3, 8, 8))] * 10]),
        "x_test": np.zeros((5, 3, 8, 8)),
    },
    "label -1 is negative": {"y_test": np.arange(5) - 1},
    "11 labels for 12 inputs": {"y_train": np.arange(11) % 4},
    "dtype is int64": {"x_train": np.zeros((12, 3, 8, 8), np.int64)},
    "looks like NHWC": {"x_train": np.zeros((12, 8, 8, 3), np.uint8)},
    "must be equal": {"x_test": np.zeros((5, 3, 9, 9), np.uint8)},
    "both be uint8": {"x_test": np.zeros((5, 3, 8, 8), np.float32)},
    "one integer label per input": {"y_train": np.eye(12)},
    "at least one input": {"x_test": np.zeros((0, 3, 8, 8), np.uint8), "y_test": np.zeros(0, np.int64)},
    "no array of numbers": {"y_train": np.array(["cat"] * 12)},
    "plain arrays": {"y_train": np.array([{}] * 12, dtype=object)},
}


@pytest.mark.parametrize("message", WRONG)
def test_an_npz_that_does_not_fit_is_refused_in_one_sentence(tmp_path, message):
    with pytest.raises(InputError, match=message) as caught:
        load(write_npz(tmp_path / "d.npz", **WRONG[message]), data_dir=NOWHERE)
    assert "\n" not in str(caught.value)


def test_a_truncated_npz_is_refused_wherever_it_is_cut(tmp_path):
    name = write_npz(tmp_path / "d.npz")
    whole = (tmp_path / "d.npz").read_bytes()
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "d.npz").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"d\.npz"):
            load(name, data_dir=NOWHERE)
    with pytest.raises(InputError, match=r"gone\.npz"):
        load("npz:gone.npz", data_dir=NOWHERE)


def test_grey_images_without_a_channel_and_labels_in_a_column_are_understood(tmp_path):
    x = np.zeros((12, 8, 8), np.uint8)
    data = load(
        write_npz(tmp_path / "d.npz", x_train=x, x_test=x[:5], y_train=np.arange(12)[:, None] % 3),
        data_dir=NOWHERE,
    )
    assert data.shape == (1, 8, 8)
    assert data.std == (1.0,)


FACTORIES = """
import torch
from torch.utils.data import Dataset, TensorDataset

def pairs():
    return (torch.rand(8, 5), torch.arange(8) % 2), (torch.rand(4, 5), torch.arange(4) % 3)

def sets():
    return tuple(TensorDataset(*pair) for pair in pairs())

class Noisy(Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return torch.full((1, 4, 4), float(index)) + torch.rand(1, 4, 4), index % 2

def noisy():
    return Noisy(), Noisy()

def one():
    return Noisy()

class Torn(Noisy):
    def __getitem__(self, index):
        if index == 3:
            raise OSError("image 3 is torn")
        return super().__getitem__(index)

def torn():
    return Torn(), Noisy()

def broken():
    raise RuntimeError("no disk")

number = 3
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORIES)
    return [tmp_path]


@pytest.mark.parametrize("name", ["pairs", "sets"])
def test_a_factory_may_return_tensors(mine, name):
    data = load(f"mine:{name}", data_dir=NOWHERE, search=mine)
    assert (data.shape, data.classes, len(data.mean)) == ((5,), 3, 5)
    assert abs(float(data.train.take(torch.arange(8))[0].mean())) < 1e-5


def test_a_dataset_is_left_as_its_transforms_make_it_and_their_draws_are_seeded(mine):
    data = load("mine:noisy", data_dir=NOWHERE, search=mine)
    state = torch.get_rng_state()
    places = torch.tensor([4, 1])
    one, same, other = (data.train.take(places, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (one.floor()[:, 0, 0, 0] == places).all()
    assert torch.equal(*(data.test.take(places)[0] for _ in range(2)))
    assert torch.equal(torch.get_rng_state(), state)
    assert (data.mean, data.classes) == ((), 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine:one", "training set, test set"),
        ("mine:broken", "raised RuntimeError: no disk"),
        ("mine:torn", "item 3 cannot be read as .*OSError: image 3 is torn"),
        ("mine:number", "unknown function"),
        ("mine:pair", 'did you mean "pairs"'),
        ("yours:pairs", "no module yours"),
        ("digit", 'did you mean "digits"'),
        ("npz:", "nothing stands after"),
    ],
)
def test_an_unknown_or_broken_name_is_refused(mine, name, message):
    with pytest.raises(InputError, match=message):
        load(name, data_dir=NOWHERE, search=mine)


def test_a_folder_is_named_once_and_numpy_s_advice_is_not_passed_on(tmp_path):
    with pytest.raises(InputError) as caught:
        load("yours:pairs", data_dir=NOWHERE, search=[tmp_path, tmp_path])
    assert str(caught.value).count(str(tmp_path)) == 1
    (tmp_path / "junk.npz").write_bytes(b"no arrays here")
    with pytest.raises(InputError, match="npz of plain arrays") as caught:
        load(f"npz:{tmp_path / 'junk.npz'}", data_dir=NOWHERE)
    assert "allow_pickle" not in str(caught.value)


def test_modules_of_one_name_in_two_folders_are_two_modules(tmp_path):
    for folder, count in (("a", 2), ("b", 3)):
        (tmp_path / folder).mkdir()
        lines = (
            f"import torch\ndef make():\n    x = torch.rand(4, {count}), torch.arange(4)\n    return x, x\n"
        )
        (tmp_path / folder / "twins.py").write_text(lines)
    shapes = [load("twins:make", data_dir=NOWHERE, search=[tmp_path / f]).shape for f in ("a", "b", "a")]
    assert shapes == [(2,), (3,), (2,)]


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for index in range(3):
                pixels = rng.integers(0, 256, (240 + 20 * index, 300, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{index}.png")
    return tmp_path


def test_folders_of_images_are_cropped_and_augmented_by_the_generator_alone(pictures):
    data = load(f"folder:{pictures}", data_dir=NOWHERE, validation=0.34)
    assert (data.shape, data.classes, len(data.train), len(data.validation)) == ((3, 224, 224), 2, 4, 2)
    places = torch.tensor([2, 0])
    one, same, other = (data.train.take(places, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert one.shape == (2, 3, 224, 224)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(*(data.test.take(places)[0] for _ in range(2)))


def test_imagenet_is_normalised_by_its_published_figures(pictures):
    data = load("imagenet", data_dir=pictures)
    assert data.mean == (0.485, 0.456, 0.406)
    with pytest.raises(InputError, match="imagenet: not found"):
        load("imagenet", data_dir=pictures / "train")


def test_folders_that_do_not_fit_and_files_that_are_no_images_are_refused(pictures):
    data = load(f"folder:{pictures}", data_dir=NOWHERE)
    (pictures / "val" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0\.png: cannot be read"):
        data.test.take(torch.arange(6))
    shutil.rmtree(pictures / "val" / "dog")
    with pytest.raises(InputError, match="dog"):
        load(f"folder:{pictures}", data_dir=NOWHERE)
    shutil.rmtree(pictures / "val")
    with pytest.raises(InputError, match="wants the folders"):
        load(f"folder:{pictures}", data_dir=NOWHERE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,)}, "go together"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "1 channels"),
        ({"mean": (0.5,), "std": (0.0,)}, "above 0"),
        ({"augment": "crops"}, 'did you mean "crop"'),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        load("digits", data_dir=NOWHERE, **options)


def test_the_measured_moments_of_pixels_are_exact():
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 2, 9, 9), dtype=np.uint8))
    mean, std = Memory(x).moments(None)
    exact = x.double() / 255
    assert mean == pytest.approx(exact.mean((0, 2, 3)).tolist(), rel=1e-5)
    assert std == pytest.approx(exact.std((0, 2, 3), correction=0).tolist(), rel=1e-5)


def test_the_real_mnist_has_its_well_known_moments(data_dir):
    data = load("mnist", data_dir=data_dir)
    assert (len(data.train), len(data.test)) == (60000, 10000)
    assert (round(data.mean[0], 4), round(data.std[0], 4)) == (0.1307, 0.3081)
