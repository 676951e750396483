"""What packing gives, beside gzip, zstd, xz, CSR and bitmask: bytes, seconds, memory.

    python benchmarks/pack.py [random] [trained] [contexts] [files] [headline] [coder]     default: all

`trained`, `contexts` and `headline` use networks of benchmarks/pack_networks.py as far as they are there, `trained`
also COMPRESSOR_DATA/asni. The opponents get the dense safetensors file with every zero made +0.0, or, for masks alone,
the packed mask bits and sign bits. A figure "of the bound" is bytes / (sum over layers of N H(density) + kept) * 8: a
mask at its i.i.d. entropy and one bit per sign; ours has 4 bytes a layer added for what the header says of it. Prints
Markdown tables. Large files: benchmarks/pack_streaming.py.
"""

import gzip
import lzma
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from unittest import mock

import numpy as np
import safetensors.numpy
import torch
import torchvision
import zstandard
from pack_networks import DATA, KEPT, mnist
from torch import nn

import compressor
from compressor import packed
from compressor.methods import METHODS
from compressor.models import build
from compressor.packed import coder, positions, reader, sizing
from compressor.packed.reader import Array, Entry
from compressor.train import evaluate
from compressor.weights import Mask

SQUEEZERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip -6": lambda data: gzip.compress(data, 6, mtime=0),
    "zstd -19": lambda data: zstandard.ZstdCompressor(19).compress(data),
    "xz -9e": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
}
Masks = Sequence[tuple[str, Array, Array]]  # name, mask, positive (of the same shape)


def table(title: str, *rows: Sequence[object]) -> None:
    """Print a Markdown table whose first row is the head."""
    print(f"\n{title}\n")
    for place, row in enumerate(rows):
        print("| " + " | ".join(str(each) for each in row) + " |")
        if not place:
            print("|" + " --- |" * len(row))
    sys.stdout.flush()


def bound(masks: Masks) -> float:
    """Return the bytes of masks at their i.i.d. entropy, and one bit per sign."""
    bits = (mask.size * sizing.binary_entropy(mask.mean()) + mask.sum() for _, mask, _ in masks)
    return float(sum(bits)) / 8


def coded(masks: Masks) -> tuple[float, list[Entry]]:
    """Return masks and signs of a network, packed as two-level weights, in multiples of the bound."""
    state, kept = {}, {}
    for name, mask, positive in masks:
        kept[name] = torch.from_numpy(mask)
        state[name] = torch.from_numpy(np.where(mask, np.where(positive, 0.5, -0.5), 0.0).astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        packed.pack(state, f"{folder}/w", mask=kept, format="asni2")
        entries = reader.head(f"{folder}/w").entries
    return sum(entry.section - 8 + 4 for entry in entries) / bound(masks), entries


def ordered(masks: Masks) -> Masks:
    """Return the masks of a chain with its hidden units sorted."""
    found = [(name, mask.copy(), positive.copy()) for name, mask, positive in masks]
    for (_, mask, positive), (_, after, signs) in pairwise(found):
        order = np.lexsort(tuple(~column for column in mask.reshape(len(mask), -1).T[::-1]))
        for one in (mask, positive):
            one[:] = one[order]
        for one in (after, signs):
            one[:] = one.reshape(len(one), len(order), -1)[:, order].reshape(one.shape)
    return found


def squeezed(masks: Masks) -> list[str]:
    """Return what the opponents make of the mask bits and sign bits, and what CSR takes, in multiples of the bound."""
    bits = b"".join(
        np.packbits(part).tobytes() for _, mask, positive in masks for part in (mask, positive[mask])
    )
    plain = [
        sum(code(_entry(mask), mask.reshape(-1)).where + (int(mask.sum()) + 7) // 8 for _, mask, _ in masks)
        for code in (positions.gaps, positions.rice)
    ]
    sizes = [*(len(squeeze(bits)) for squeeze in SQUEEZERS.values()), *plain, len(bits)]
    return [f"{size / bound(masks):.3f}" for size in sizes]


def _entry(mask: Array) -> Entry:
    return Entry("w", "sparse", "F32", mask.shape, int(mask.sum()))


HEAD = ("gzip -6", "zstd -19", "xz -9e", "CSR (gaps)", "Rice", "bitmask", "ours", "ours, units ordered")


def random_masks() -> None:
    """Claim 1: i.i.d. random masks and signs."""
    rows: list[Sequence[object]] = [("shape", "density", "kept", *HEAD)]
    generator = np.random.default_rng(0)
    for shape in ((300, 784), (1000, 1000), (256, 128, 3, 3)):
        for density in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001):
            mask, sign = generator.random(shape) < density, generator.random(shape) < 0.5
            masks = [("w", mask, sign), ("v", np.ones((1, shape[0]), bool), np.ones((1, shape[0]), bool))]
            kept = int(mask.sum())
            if kept < 200:
                continue
            ours = [coded(each[:1])[0] for each in (masks, ordered(masks))]
            rows.append((
                "x".join(map(str, shape)), density, kept, *squeezed(masks[:1]), *(f"{one:.4f}" for one in ours)
            ))  # fmt: skip
    table("Random masks and signs, multiples of the entropy bound", *rows)


def networks() -> dict[str, tuple[Masks, bool]]:
    """Return masks and signs of the trained networks that are there, and whether they are chains of linear layers."""
    found: dict[str, tuple[Masks, bool]] = {}
    for path in sorted((DATA / "asni").glob("*.npz"), reverse=True):
        with np.load(path) as file:
            layers = [(f"W{i}", file[f"m{i}"] > 0, file[f"W{i}"] > 0) for i in (1, 2, 3)]
        found[path.stem] = layers, True
    for path in sorted(KEPT.glob("*.pt")):
        kept = torch.load(path)
        masks = [(n, m.numpy(), (kept["state"][n] > 0).numpy()) for n, m in kept["mask"].items()]
        found[f"{path.stem} ({kept['accuracy']:.1%})"] = masks, "mnist" in path.stem
    return found


def trained() -> None:
    """Claim 2: trained masks and signs."""
    rows: list[Sequence[object]] = [("network", "bound, bytes", *HEAD)]
    for name, (masks, chain) in networks().items():
        ours = [f"{coded(masks)[0]:.4f}", f"{coded(ordered(masks))[0]:.4f}" if chain else "-"]
        rows.append((name, round(bound(masks)), *squeezed(masks), *ours))
    table("Trained masks and signs, multiples of the entropy bound", *rows)


def contexts() -> None:
    """What each context gives on convolutional masks: all of them, and all but one."""
    geometry, mixed = reader._Geometry, reader._Mixed
    kernels, fan = geometry._kernels, reader._fan

    def no_position(
        self: reader._Geometry, row: int, kept: Array, density: int, ratio: Array | None
    ) -> Array:
        size = self.high * self.wide
        flat = np.repeat(kept.reshape(-1, size).sum(1) // size, size)
        return kernels(self, row, flat, density, ratio)

    def no_channel(self: reader._Geometry, row: int, kept: Array, density: int, ratio: Array | None) -> Array:
        size = self.high * self.wide
        each = kept.reshape(-1, size)
        return kernels(self, row, np.tile(each.sum(0) // len(each), len(each)), density, ratio)

    changes: dict[str, tuple[object, str, object]] = {
        "all": (reader, "_fan", fan),
        "without the kernel position": (geometry, "_kernels", no_position),
        "without the input channel": (geometry, "_kernels", no_channel),
        "without the layer before": (reader, "_fan", lambda _: (None, [])),
        "without the window in the kernel": (mixed, "_sum", lambda *_: 0),
    }
    rows: list[list[object]] = [["network", *changes]]
    for name, (masks, chain) in networks().items():
        if chain or "conv6" in name:  # 2.26 M weights are too many for the plain-Python model
            continue
        _, entries = coded(masks)
        rows.append([name])
        for owner, attribute, change in changes.values():
            with mock.patch.object(owner, attribute, change):
                sizes = (_plainly(entry, masks) for entry in entries)
                rows[-1].append(f"{sum(sizes) / bound(masks):.4f}")
    table("Contexts of convolutional masks (mixed model alone), multiples of the entropy bound", *rows)


def _plainly(entry: Entry, masks: Masks) -> int:
    """Return the bytes of a layer under the mixed model in plain Python, 4 for its header included."""
    known = {name: (mask, positive[mask]) for name, mask, positive in masks}
    mask, signs = known[entry.name]
    kernel = len(entry.shape) > 2 and entry.columns > entry.shape[1]
    names = [name for name, other, _ in masks if other.ndim > 1 and entry.shape[1] % len(other) == 0]
    before = [name for name in names if list(known).index(name) < list(known).index(entry.name)]
    fan = known[before[-1]][0].reshape(len(known[before[-1]][0]), -1).sum(1) if before else None
    entry = replace(entry, positions="mixed", picture=int(kernel))
    encoder = coder.Encoder()
    layer = reader.layer_of(entry, fan, signed=True)
    reader.code_mask(encoder, layer, mask.reshape(-1).tolist(), signs.tolist())
    return len(encoder.finish()) + 4


def network(name: str) -> nn.Module:
    """Return a network with random weights and, where it has norms, random statistics."""
    torch.manual_seed(0)
    if name == "LeNet-300-100":
        return build("lenet-300-100", shape=(1, 28, 28), classes=10, seed=0)
    if name == "ResNet-50":
        model: nn.Module = torchvision.models.resnet50()
    else:
        features = torchvision.models.vgg16_bn().features
        model = nn.Sequential(features, nn.Flatten(), nn.Linear(512, 10))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                assert tensor is not None
                tensor.normal_()
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2)
    return model


def files() -> None:
    """Claim 3: whole files at 95 %. Seconds: median of three, reading and measuring of gzip not counted."""
    rows: list[Sequence[object]] = [
        ("network", "dense", *SQUEEZERS, "csr", "bitmask", "bound", "**float32**", "int8", "**asni2**",
         "of zstd -19", "encode / decode, s", "asni2, s", "container of asni2"),
    ]  # fmt: skip
    for name, method in (
        ("LeNet-300-100", "magnitude"),
        ("VGG-16/CIFAR", "random"),
        ("ResNet-50", "magnitude"),
    ):
        model = network(name)
        shape = {"LeNet-300-100": (1, 28, 28), "VGG-16/CIFAR": (3, 32, 32)}.get(name)
        # Not through prune(), whose guard refuses the dead layer that global magnitude makes of random weights.
        mask = METHODS[method](model, 0.05, shape, generator=torch.Generator().manual_seed(0))
        mask.apply_(model)
        state = {
            key: tensor + 0.0 if tensor.is_floating_point() else tensor
            for key, tensor in model.state_dict().items()
        }
        dense = safetensors.numpy.save({key: tensor.numpy() for key, tensor in state.items()})
        own, own_times, sizes = _packed(state, mask)
        int8, _, _ = _packed(state, mask, values="int8")
        compressor.to_levels(model, mask, compressor.centroids(model, mask))
        two, two_times, _ = _packed(model.state_dict(), mask)
        squeeze = {each: len(one(dense)) for each, one in SQUEEZERS.items()}
        rows.append((
            name, len(dense), *squeeze.values(), sizes.formats["csr"], sizes.formats["bitmask"], sizes.bound,
            own[0], int8[0], two[0], f"{own[0] / squeeze['zstd -19']:.3f}, {squeeze['zstd -19'] / two[0]:.1f}x smaller",
            own_times, two_times, f"{two[1]} ({two[1] / two[0]:.2%})",
        ))  # fmt: skip
    table("Whole files, 95 % of the weights zero", *rows)


def _packed(
    state: Mapping[str, torch.Tensor], mask: Mapping[str, torch.Tensor], values: str | None = None
) -> tuple[tuple[int, int], str, packed.Sizes]:
    """Return file and container in bytes, seconds to encode and decode, and the sizes."""
    from compressor.packed.source import given

    times: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/w"
        for _ in range(3):
            begun = time.perf_counter()
            packed.write(path, given(state, mask), values=values, compare=False)
            middle = time.perf_counter()
            reader.parse(path)
            times.append((middle - begun, time.perf_counter() - middle))
        sizes = packed.sizes(path)
        container = sizes.file - sum(entry.section for entry in reader.head(path).entries)
    median = [sorted(column)[1] for column in zip(*times, strict=True)]
    return (sizes.file, container), f"{median[0]:.2f} / {median[1]:.2f}", sizes


def headline() -> None:
    """Claim 4: the two-level network of 1 %, folded and ordered; accuracy read back from the file."""
    rows: list[Sequence[object]] = [
        (
            "network",
            "biases",
            "dense",
            "bitmask",
            "file",
            "masks, signs, levels",
            "biases",
            "container",
            "accuracy",
        )
    ]
    for path in sorted(KEPT.glob("mnist-move-1*.pt")):
        kept = torch.load(path)
        model = build("lenet-300-100", shape=(1, 28, 28), classes=10, seed=0)
        model.load_state_dict(kept["state"])
        x, _ = mnist().test.take(torch.arange(256))
        folded = compressor.fold_dead(model, Mask(kept["mask"]), x)
        done = compressor.order_units(folded.model, folded.mask, x)
        for biases in (None, "float16"):
            with tempfile.TemporaryDirectory() as folder:
                sizes = packed.pack(done.model, f"{folder}/w", mask=done.mask, biases=biases)
                entries = reader.head(f"{folder}/w").entries
                again = build("lenet-300-100", shape=(1, 28, 28), classes=10, seed=1)
                packed.load(again, f"{folder}/w")
            weights = sum(entry.section for entry in entries if entry.role == "sparse")
            rest = sum(entry.section for entry in entries if entry.role == "dense")
            rows.append((
                path.stem, biases or "float32", sizes.dense, sizes.formats["bitmask"], sizes.file, weights, rest,
                sizes.file - weights - rest, f"{evaluate(again, mnist().test):.2%}",
            ))  # fmt: skip
    table("LeNet-300-100 on MNIST at 1 %, two levels, fold_dead, order_units", *rows)


def coders() -> None:
    """Claim 5, first half: time per weight of the models, processor time of one thread."""
    rows: list[Sequence[object]] = [("model", "weights", "C++, µs per weight", "plain Python, µs per weight")]
    generator = np.random.default_rng(0)
    mask = generator.random((300, 784)) < 0.05 * 2 * generator.random(784)
    signs = generator.random(int(mask.sum())) < 0.5
    for name, picture in (("static", 0), ("mixed", 0), ("mixed", 28)):
        entry = Entry("w", "sparse", "F32", mask.shape, int(mask.sum()), name, picture=picture)
        layer = reader.layer_of(entry, None, signed=True)
        times = []
        for core, rounds in ((reader.core, 20), (None, 1)):
            with mock.patch.object(reader, "core", core):
                begun = time.process_time()
                for _ in range(rounds):
                    coder.encode_mask(mask.reshape(-1), signs, layer)
                times.append(f"{(time.process_time() - begun) / rounds / mask.size * 1e6:.3f}")
        rows.append((f"{name}, picture {picture}", mask.size, *times))
    table("The coder", *rows)


PARTS: dict[str, Callable[[], None]] = {
    "random": random_masks,
    "trained": trained,
    "contexts": contexts,
    "files": files,
    "headline": headline,
    "coder": coders,
}


def main(names: list[str]) -> None:
    """Print the tables that are named, or all."""
    if not {*names} <= {*PARTS}:
        sys.exit(f"usage: pack.py [{'|'.join(PARTS)}]...")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    print(f"{versions}, {os.cpu_count()} cores, the C++ core {'is' if reader.core else 'is NOT'} built")
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
