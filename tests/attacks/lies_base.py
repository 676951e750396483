"""Lies of task files: what the base contradicts, and what can be seen without it."""

import numpy as np
from forge import ALL, BASE, DTYPE, GAPS, MIXED, RICE, STATIC, entry
from lies import Lies, W, dense, task
from sections import bits, stream

TWICE = stream([[1, 1]])  # of a mask that the base's tensor has no room for
GRID = [[1, 1], [1, 0]]


def coded(data: bytes, **fields: object) -> bytes:
    own = {"positions": STATIC, "values": BASE, "coded": len(data), "decoded": W} | fields
    return task(entry(**own), sections=data)  # type: ignore[arg-type]


def produced(columns: int) -> bytes:
    """Two tensors that the base lacks, the rows of the first (of very many columns) the columns of the second."""
    first = entry(b"a", values=BASE, positions=GAPS, shape=(2, columns), kept=1, width=1)
    data = stream(GRID, model="mixed", fan=np.array([1, 0]))
    second = entry(b"b", values=BASE, positions=MIXED, shape=(2, 2), kept=3, producer=1, coded=len(data))
    return task(first, second, sections=b"\x00" + data)


BASE_LIES: Lies = {
    "is not in the base": {
        "masked tensor that the base lacks": task(entry(b"x", values=BASE, decoded=W), sections=b"\x01"),
        "tensor that the base lacks": task(dense(b"x", values=BASE)),
        "producer of 2^34 weights that the base lacks": produced(1 << 33),
        "producer of 2^47 weights that the base lacks": produced(1 << 46),
    },
    "is not of the dtype and shape that it has in the base": {
        "another shape": task(dense(values=BASE, shape=(2, 2))),
        "another dtype": task(dense(values=BASE, dtype=DTYPE["I64"], shape=(2,))),
        "another dtype of the same size": task(dense(values=BASE, dtype=12)),
        "2 GiB of the base's zeros": task(dense(values=BASE, shape=(1 << 29,))),
        "2^46 of the base's weights": task(
            entry(values=BASE, positions=GAPS, kept=0, shape=(1 << 46,), width=1)
        ),
        "2^46 of the base's weights by Rice codes": task(
            entry(values=BASE, positions=RICE, kept=0, shape=(1 << 23, 1 << 23))
        ),
        "2^47 empty rows": task(dense(values=BASE, shape=(1 << 47, 0))),
        "a stream for a mask of another shape": coded(TWICE, shape=(2,), kept=2),
    },
    "is damaged (its CRC-32 does not match)": {
        "values that are not the base's": task(entry(values=BASE, decoded=W[::-1]), sections=b"\x01"),
        "all that is not the base's": task(dense(values=BASE, decoded=W[::-1])),
    },
    "stores a zero among what is left when zeros are left out": {
        "zeros of the base among what is not left out": task(
            entry(role=0, values=BASE, kept=2, decoded=W), sections=b"\x03"
        ),
    },
    "claims 2 kept weights, its mask holds 1": {
        "another count than all": task(entry(values=BASE, positions=ALL, kept=2, decoded=W)),
    },
}
# Of task files too, but to be seen without the base.
MASK_LIES: Lies = {
    "claims 2 kept weights, its mask holds 1": {
        "another count than its own mask": task(entry(values=BASE, kept=2, decoded=W), sections=b"\x01"),
    },
    "claims 1 kept weights, its mask holds 3": {
        "fewer kept than bits": task(entry(values=BASE, decoded=W), sections=b"\x07"),
    },
    "has padding bits that are not": {
        "mask with padding": task(entry(values=BASE, decoded=W), sections=b"\x11"),
        "gaps with padding": task(entry(values=BASE, positions=GAPS, width=3, decoded=W), sections=b"\x08"),
        "Rice codes with padding": task(
            entry(values=BASE, positions=RICE, width=3, decoded=W), sections=b"\x01\x08"
        ),
    },
    "has gaps that do not end": {
        "gaps that do not end": task(
            entry(values=BASE, positions=GAPS, width=1, escapes=1, decoded=W), sections=b"\x02"
        ),
    },
    "has Rice codes that do not end": {
        "Rice codes that do not end": task(
            entry(values=BASE, positions=RICE, escapes=1, decoded=W), sections=bits([1, 0])
        ),
    },
    "has gaps that lead past its end": {
        "gaps past the end": task(entry(values=BASE, positions=GAPS, width=3, decoded=W), sections=b"\x04"),
    },
    "has a stream that ends in a zero byte": {
        "stream that ends in a zero byte": coded(stream([[1, 0, 0, 0]]) + b"\x00"),
    },
    "has a mask with fewer survivors than it should": {
        "stream of zeros, of two weights": coded(b"\xff" * 4, kept=2),
    },
    "claims more weights than its stream may hold": {
        "2^40 weights of the base in a stream": coded(b"\x55" * 40, shape=(1 << 40,)),
    },
}
