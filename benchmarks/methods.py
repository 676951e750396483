"""What scoring costs beside the passes that it contains: CIFAR VGG-16, 14.7 million weights, one thread.

    python benchmarks/methods.py

Ratios of processor time, both sides in turns in one process: SynFlow (100 rounds, float64) beside 100 forward and
backward passes of batch 1 in float64, of which 20 are run between the rounds; SNIP beside one forward and backward
pass of its batch of 256; GraSP beside the forward, backward and second backward pass of its batch of 100. `prune` is
timed whole: copy, selection, guard.
Memory: what the resident set grows by at its highest, in a process of its own (Linux), in units of the weights in the
type of the computation; the activations are what a plain pass grows by beyond its gradients.
"""

import multiprocessing
import time
from collections.abc import Callable
from statistics import mean, median

import torch
from torch import Tensor, nn

import compressor
from compressor.models import build

REPEATS = 3


def network() -> nn.Module:
    """Return CIFAR VGG-16 with batch norm."""
    return build("vgg16", shape=(3, 32, 32), classes=10, seed=0)


def batch(size: int) -> tuple[Tensor, Tensor]:
    """Return a batch of noise in the shape of CIFAR."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, 32, 32, generator=generator), torch.arange(size) % 10


def passes(data: tuple[Tensor, Tensor], dtype: torch.dtype, orders: int = 1) -> Callable[[], object]:
    """Return a call that runs a forward and a backward pass and nothing else; orders 2: a second backward."""
    model = network().to(dtype).eval()
    weights = list(compressor.prunable(model).values())
    x, y = data[0].to(dtype), data[1]

    def call() -> object:
        loss = nn.functional.cross_entropy(model(x), y)
        first = torch.autograd.grad(loss, weights, create_graph=orders > 1)
        return first if orders == 1 else torch.autograd.grad(first, weights, [g.detach() for g in first])

    return call


def pruning(method: str, data: tuple[Tensor, Tensor]) -> Callable[..., object]:
    """Return a call of `prune` at 5 %."""
    model = network()
    return lambda **options: compressor.prune(model, method, density=0.05, data=data, **options)


def sides(name: str) -> tuple[Callable[..., object], Callable[[], object], int]:
    """Return the method, the passes that it contains (of SynFlow one of its hundred), and bytes per weight."""
    if name == "synflow":
        return pruning("synflow", batch(1)), passes(batch(1), torch.float64), 8
    if name == "snip":
        return pruning("snip", batch(256)), passes(batch(256), torch.float32), 4
    return pruning("grasp", batch(100)), passes(batch(100), torch.float32, orders=2), 4


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def timed(method: Callable[..., object], plain: Callable[[], object], name: str) -> tuple[float, float]:
    """Return the processor time of a method and of its passes, taken in turns; of SynFlow between its rounds."""
    plain()
    if name != "synflow":
        pairs = [(seconds(method), seconds(plain)) for _ in range(REPEATS)]
        return median(ours for ours, _ in pairs), median(theirs for _, theirs in pairs)
    between: list[float] = []

    def on_round(number: int, _: object) -> None:
        if number % 5 == 0:
            between.append(seconds(plain))

    whole = seconds(lambda: method(on_round=on_round))
    return whole - sum(between), 100 * mean(between)


def growth(job: tuple[str, int]) -> float:
    """Return how many bytes the resident set grows by while one side (0: method, 1: passes) runs. Linux."""
    torch.set_num_threads(1)
    name, side = job
    method, plain, _ = sides(name)
    call = plain if side else method
    with open("/proc/self/clear_refs", "w", encoding="ascii") as peak:
        peak.write("5")  # the highest resident set is counted from here
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(key: str) -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(1024.0 * int(line.split()[1]) for line in status if line.startswith(key))


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    weights = sum(w.numel() for w in compressor.prunable(network()).values())
    print(f"`python benchmarks/methods.py` - {weights:,} weights, one thread, torch {torch.__version__}\n")
    print("| method | CPU seconds | its passes | ratio | peak memory, weights | of it activations |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in ("synflow", "snip", "grasp"):
        method, plain, width = sides(name)
        ours, theirs = timed(method, plain, name)
        del method, plain
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            peak, bare = pool.map(growth, [(name, 0), (name, 1)], chunksize=1)
        unit = weights * width
        activations = max(0.0, bare / unit - (2 if name == "grasp" else 1))
        print(
            f"| {name} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} | {peak / unit:.2f} | {activations:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
