"""What the files in tests/golden hold: networks made of integers, so that they are the same for ever."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from drawn import columns, draw, fed, floats, hill, keep, numbers, ordered, two

FOLDER = Path(__file__).parents[1] / "golden"
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Golden:
    """One network: what is packed, how, and what comes back (`stored`, where it was rounded). base: a file's name."""

    state: Tensors
    mask: Tensors = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    stored: Tensors = field(default_factory=dict)
    base: str = ""

    @property
    def expected(self) -> Tensors:
        return self.state | self.stored


def weight(mask: torch.Tensor, salt: int, how: str = "entropy", **more: torch.Tensor) -> Golden:
    """One weight under this mask: free values, or two levels if `how` is asni2; and more tensors."""
    value = two(mask, salt, salt % 2 == 1) if how == "asni2" else floats(mask, salt)
    return Golden({"fc.weight": value} | more, {"fc.weight": mask}, {"format": how})


def chain(first: torch.Tensor, second: torch.Tensor, salt: int, how: str = "entropy") -> Golden:
    """Two layers, of which the first feeds the second."""
    both = {"fc1.weight": first, "fc2.weight": second}
    make = two if how == "asni2" else floats
    state = {name: make(mask, salt + i) for i, (name, mask) in enumerate(both.items())}
    return Golden(state, both, {"format": how})


LINE = keep((60, 14), columns(14, 10, 500), 4)
PICTURE = keep((30, 64), hill(8, 500), 2)
CONV = keep((16, 6, 3, 3), np.tile([20, 300, 20, 300, 700, 300, 20, 300, 20], 6).reshape(6, 3, 3), 3)
CONV_1D = keep((20, 8, 5), np.tile([20, 20, 800, 300, 20], 8).reshape(8, 5), 4)
CONV_3D = keep((12, 4, 2, 3, 2), np.tile([10, 10, 600, 500, 10, 10] * 2, 4).reshape(4, 2, 3, 2), 5)
UNEVEN = keep((24, 21), np.arange(24)[:, None] % 4 * 190 + 10, 6)
FEW, SOME = keep((300,), 25, 7), keep((8, 50), 250, 7)
SORTED = ordered(keep((25, 40), 150, 2))
FULL = keep((60,), 1000, 0)
CODED = ("entropy", "asni2")
ODD = torch.tensor(
    [0, -(2**31), 0x7FC12345, 0, -1, 1, -(2**31) + 1, 0, 0x7F800001, 0x7F800000, 0x3F800000, 0],
    dtype=torch.int32,
).view(torch.float32)


def codings() -> dict[str, Golden]:
    """Every way to store the positions, with free values and with signs."""
    masks = {
        "bitmask": keep((7, 11), 400, 10),
        "rice": FEW,
        "static": SOME,
        "static-ordered": SORTED,
        "mixed-line": LINE,
        "mixed-picture": PICTURE,
        "mixed-kernels": CONV,
        "mixed-kernels-1d": CONV_1D,
        "mixed-kernels-3d": CONV_3D,
        "mixed-ordered": ordered(LINE),
        "mixed-picture-ordered": ordered(PICTURE),
        "mixed-kernels-ordered": ordered(CONV),
    }
    free = {name: weight(mask, salt) for salt, (name, mask) in enumerate(masks.items(), 20)}
    signs = {f"{name}-signs": weight(mask, 41, "asni2") for name, mask in masks.items()}
    return free | signs


def producers() -> dict[str, Golden]:
    """Layers whose columns are as dense as the rows of the layer before."""
    pixels = fed(UNEVEN[:16], (40, 64), 58) & keep((40, 64), hill(8, 1000), 54)
    return {
        "producer-line": chain(UNEVEN, fed(UNEVEN, (30, 24), 51), 52),
        "producer-line-signs": chain(UNEVEN, fed(UNEVEN, (30, 24), 51), 53, "asni2"),
        "producer-picture": chain(UNEVEN[:16], pixels, 55, "asni2"),
        "producer-kernels": chain(UNEVEN[:8], fed(UNEVEN[:8], (12, 8, 3, 3), 56), 57),
        "producer-kernels-signs": chain(UNEVEN[:8], fed(UNEVEN[:8], (12, 8, 3, 3), 56), 57, "asni2"),
        "producer-ordered": chain(UNEVEN, ordered(fed(UNEVEN, (30, 24), 51)), 59, "asni2"),
        "producer-flattened": chain(UNEVEN[:8], fed(UNEVEN[:8], (30, 24), 60), 61, "asni2"),
    }


def lowered() -> dict[str, Golden]:
    """Values and biases at a lower precision; what comes back is said in integers, or by the rounding of torch."""
    halves = {name: rounded(name, {}) for name in ("float16", "bfloat16")}
    halves |= {f"biases-{name}": rounded(name, {"biases": name}) for name in ("float16", "bfloat16")}
    masks = {"all": keep((5, 4), 1000, 0), "bitmask": keep((7, 11), 400, 10), "rice": keep((4, 75), 25, 7)}
    masks |= {"static": SOME, "static-ordered": SORTED, "mixed": LINE}
    return halves | {
        f"int8-{name}": eighths(mask, salt) for salt, (name, mask) in enumerate(masks.items(), 80)
    }


def rounded(name: str, options: dict[str, str]) -> Golden:
    state = {"fc.weight": floats(SOME, 70), "fc.bias": floats(keep((8,), 1000, 0), 71)}
    state["wide"] = state["fc.bias"].double() / 3
    state["steps"] = torch.tensor(7)
    low = getattr(torch, name)
    lossy = ["fc.bias", "wide"] if options else ["fc.weight", "fc.bias", "wide"]
    stored = {key: state[key].to(low).to(state[key].dtype) for key in lossy}
    return Golden(state, {"fc.weight": SOME}, {"format": "entropy"} | (options or {"values": name}), stored)


def eighths(mask: torch.Tensor, salt: int) -> Golden:
    """int8: codes times a scale of each row, and up to a quarter of the scale beside that."""
    codes = torch.from_numpy((draw(mask.numel(), salt) % np.uint64(255)).astype(np.int64) - 127)
    codes = codes.reshape(mask.shape) * mask
    places = torch.arange(mask.numel()).reshape(mask.shape)
    for row, kept in zip(codes, mask, strict=True):
        if kept.any():
            row[kept.nonzero()[0]] = 127
    scales = (torch.arange(1, len(mask) + 1) / 1024).unsqueeze(1)
    beside = (places % 3 - 1) * mask * scales / 4 * (codes.abs() < 127)
    options = {"format": "entropy", "values": "int8"}
    state, stored = codes * scales + beside, codes * scales
    more = {"double": state.double()}
    both = {"fc.weight": mask, "double": mask}
    return Golden(
        {"fc.weight": state} | more, both, options, {"fc.weight": stored, "double": stored.double()}
    )


def planes() -> dict[str, Golden]:
    """Own values of every width, 1 to 7 of whose bytes are coded, and values too random for any."""
    tensors = {
        f"{bits}-bits": numbers(40, bits, torch.int64, bits) * (1 if bits % 16 else -1)
        for bits in range(4, 65, 6)
    }
    tensors["i8"] = numbers(60, 3, torch.int8, 1)
    tensors["u16"] = numbers(60, 9, torch.uint16, 2)
    tensors["i32"] = numbers(60, 17, torch.int32, 3) - 2**16
    tensors["f16"] = floats(FULL, 4).half()
    tensors["bf16"] = floats(FULL, 5).bfloat16()
    tensors["f32"] = floats(FULL, 6)
    tensors["coarse"] = (tensors["f32"] * 16).round()
    tensors["f64"] = floats(FULL, 7).double() / 3
    tensors["c64"] = torch.complex(tensors["coarse"], tensors["f32"])
    tensors["bool"] = keep((100,), 50, 8)
    tensors["f8"] = numbers(60, 5, torch.uint8, 9).view(torch.float8_e4m3fn)
    keep_most = keep((60,), 800, 9)
    masked = {"fc.weight": (tensors["coarse"] * keep_most + 0.0).double()}
    return {"planes": Golden(tensors), "planes-dense": Golden(masked, {"fc.weight": FULL})}


def containers() -> dict[str, Golden]:
    """What is about the file and its tensors rather than about a coding."""
    both = {"fc.weight": two(SOME, 90)}
    shapes = [
        (),
        (0,),
        (3,),
        (2, 0),
        (2, 3),
        (2, 1, 3),
        (0, 2, 1, 2),
        (1, 2, 1, 2),
        (2, 1, 1, 3, 1),
        (1,) * 9,
    ]
    some = {f"s{len(shape)}.{sum(shape)}": keep(shape, 600, 91) for shape in shapes}
    free = {name: floats(mask, 92) for name, mask in some.items()}
    zeros = {"seldom": torch.arange(300) % 97 == 5, "often": torch.arange(301) % 5 > 1}
    tied = torch.arange(12.0).reshape(3, 4) * (torch.arange(12).reshape(3, 4) > 3)
    endings = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "weight_orig")
    names = [
        "ä",
        "weight",
        ".weight",
        "x.weight.weight",
        *(f"a_layer_with_a_long_name.{end}" for end in endings),
    ]
    every = {1000: keep((4, 5), 1000, 0), 0: keep((4, 5), 0, 0)}
    kept = {f"kept-{how}-{n}": weight(mask, 93, how) for n, mask in every.items() for how in CODED}
    return (
        kept
        | {
            "empty": Golden({}),
            "start": Golden(both, {"fc.weight": SOME}, {"kind": "start"}),
            "alias": Golden(
                {"a.weight": tied, "b.bias": tied[0] + 1, "b.weight": tied}, {"a.weight": tied > 3}
            ),
            "shapes": Golden(free, some, {"format": "entropy"}),
            "shapes-signs": Golden(
                {name: two(mask, 94) for name, mask in some.items()}, some, {"format": "asni2"}
            ),
            "shapes-unmasked": Golden(free),
            "without-zeros": Golden({name: floats(mask, 95) for name, mask in zeros.items()}),
            "names": Golden({name: torch.tensor(float(i)) for i, name in enumerate(names)}),
            "odd-bits": Golden({"fc.weight": ODD, "b": ODD[:4]}, {"fc.weight": torch.arange(12) % 4 < 3}),
        }
        | {f"plain-{how}": weight(SOME, 96, how) for how in ("dense", "csr", "bitmask")}
    )


def tasks() -> dict[str, Golden]:
    """Two whole networks, and what others have beside them."""
    masks = {"rice": FEW, "static": SOME, "static-ordered": SORTED, "mixed": LINE, "mixed-kernels": CONV}
    base = {name: (floats(torch.ones_like(mask), 97) * 8).round() + 0.0 for name, mask in masks.items()}
    base |= {"bitmask": floats(keep((7, 11), 1000, 0), 98), "csr": floats(FULL, 99)}
    masks |= {"bitmask": keep((7, 11), 400, 10), "none": torch.zeros(60, dtype=torch.bool)}
    base["none"], base["unmasked"] = base["csr"], torch.arange(5) / 8
    state = {name: base[name] * mask + 0.0 for name, mask in masks.items()}
    state |= {"unmasked": base["unmasked"], "head.weight": two(SOME, 100), "head.bias": torch.ones(3)}
    small = {name: state[name] for name in ("rice", "bitmask")}
    smaller = {"bitmask": masks["bitmask"] & (torch.arange(77).reshape(7, 11) % 2 == 0)}
    again = {"rice": state["rice"], "bitmask": state["bitmask"] * smaller["bitmask"] + 0.0}
    return {
        "base": Golden(base),
        "task": Golden(state, masks | {"head.weight": SOME}, base="base"),
        "base-masked": Golden(small, {name: masks[name] for name in small}),
        "task-own-mask": Golden(again, {"rice": FEW} | smaller, base="base-masked"),
    }


def path(name: str) -> Path:
    return FOLDER / f"v3-{name}.safetensors"


GOLDEN: dict[str, Golden] = {}
for group in (codings, producers, lowered, planes, containers, tasks):
    GOLDEN |= group()


def write() -> None:
    """Write the files that are not there yet; one that is there is never written again."""
    from compressor.packed import pack

    for name, one in GOLDEN.items():
        if not path(name).exists():
            base = path(one.base) if one.base else None
            pack(one.state, path(name), mask=one.mask or None, base=base, **one.options)


if __name__ == "__main__":
    write()
