"""Pack and unpack large synthetic files through the command line: seconds and peak memory.

    python benchmarks/pack_streaming.py [WEIGHTS]...     default: 10, 100 and 1,000 million; takes 9 GB of disk

float32 layers of 16 M weights (a tenth of the network if that is less), 5 % of them not zero, in one safetensors file;
`compressor pack FILE --mask-from-zeros` and `compressor unpack --to safetensors`, each in a process of its own, and the
result compared with the file byte for byte. Peak memory is the resident set of that process as the kernel counts it,
beside 3 times the largest tensor + 300 MB.
"""

import filecmp
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from compressor import plain
from compressor.packed.reader import Array

LAYER = 1 << 24
DENSITY = 0.05
COLUMNS = 1024


def layers(weights: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name -> dtype and shape."""
    each = min(weights // 10, LAYER)
    shape = (each // COLUMNS, COLUMNS)
    return {f"layer{place}.weight": ("F32", shape) for place in range(weights // each)}


def values(layout: dict[str, tuple[str, tuple[int, ...]]]) -> Iterator[tuple[str, Array]]:
    """Yield random layers, in blocks of rows so that little is in memory."""
    generator = np.random.default_rng(0)
    for name, (_, shape) in layout.items():
        layer = generator.standard_normal(shape, np.float32)
        layer[generator.random(shape, np.float32) >= DENSITY] = 0
        layer += 0.0  # the generator makes a -0.0 now and then, which packs as the zero that it is
        yield name, layer


def timed(*arguments: str) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MB."""
    begun = time.perf_counter()
    command = [str(Path(sys.executable).parent / "compressor"), *arguments]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, arguments
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def write(weights: int, path: str) -> None:
    """Write the file that is packed."""
    layout = layers(weights)
    plain.write(path, layout, values(layout))


def main(sizes: list[int]) -> None:
    """Print one row per size."""
    head = (
        "weights",
        "largest tensor",
        "dense",
        "packed",
        "pack, s",
        "peak",
        "unpack, s",
        "peak",
        "limit of the peaks",
    )
    print(f"Sizes in MB.\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for weights in sizes:
        with tempfile.TemporaryDirectory() as folder:
            big, small, again = (f"{folder}/{name}.safetensors" for name in ("big", "small", "again"))
            # In a process of its own: a child's peak begins at what its parent has.
            writer = multiprocessing.get_context("spawn").Process(target=write, args=(weights, big))
            writer.start()
            writer.join()
            pack = timed("pack", big, "--mask-from-zeros", "--out", small)
            unpack = timed("unpack", small, "--to", "safetensors", "--out", again)
            assert filecmp.cmp(big, again, shallow=False), "what came back is not what was packed"
            megabytes = [os.path.getsize(path) / 1e6 for path in (big, small)]
        rows, columns = next(iter(layers(weights).values()))[1]
        largest = rows * columns * 4 / 1e6
        figures = (largest, *megabytes, *pack, *unpack, 3 * largest + 300)
        print(f"| {weights:,} | {' | '.join(f'{figure:,.1f}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [10**7, 10**8, 10**9])
