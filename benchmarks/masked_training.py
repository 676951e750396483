"""What masked training costs: a step under `compressor.hold`, and under torch.nn.utils.prune, beside a plain step.

All three run interleaved in one process on one thread, on the same batches; the ratio is of medians, with the range
over rounds. Unfused Adam is reported as it is: torch's square root is slow on zeros, whatever one does.

    python benchmarks/masked_training.py
"""

import copy
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.utils import prune as torch_prune

import compressor
from compressor.models import build
from compressor.optimizers import make_optimizer
from compressor.recipe import Train

ROUNDS, DENSITY = 9, 0.05
NETWORKS = {"lenet-300-100": ((1, 28, 28), 128, 60), "conv6": ((3, 32, 32), 60, 2)}
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: make_optimizer(model, Train(momentum=0.9, weight_decay=1e-4)),
    "adam, fused": lambda model: make_optimizer(model, Train(optimizer="adam", lr=1e-3)),
    "adam, unfused": lambda model: torch.optim.Adam(model.parameters(), 1e-3, fused=False, foreach=False),
}


def variants(
    name: str, make: Callable[[nn.Module], torch.optim.Optimizer]
) -> dict[str, Callable[[int], None]]:
    """Return one function per variant that trains a number of steps."""
    shape, batch, _ = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *shape, generator=generator)
    y = torch.randint(10, (batch,), generator=generator)
    base = build(name, shape=shape, classes=10, seed=0)
    mask = compressor.prune(base, "magnitude", density=DENSITY, scope="layer")

    def stepper(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[int], None]:
        def steps(count: int) -> None:
            for _ in range(count):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()

        return steps

    plain, held, reparametrised = (copy.deepcopy(base) for _ in range(3))
    optimizer = make(held)
    compressor.hold(held, optimizer, mask)
    for key, kept in mask.items():
        module, _, attribute = key.rpartition(".")
        torch_prune.custom_from_mask(reparametrised.get_submodule(module), attribute, kept)
    return {
        "plain": stepper(plain, make(plain)),
        "compressor.hold": stepper(held, optimizer),
        "nn.utils.prune": stepper(reparametrised, make(reparametrised)),
    }


def measure(runs: dict[str, Callable[[int], None]], steps: int) -> dict[str, list[float]]:
    """Return seconds per step, one value per round, the variants taking turns within each round."""
    times: dict[str, list[float]] = {key: [] for key in runs}
    for steppers in runs.values():
        steppers(max(1, steps // 4))
    for number in range(ROUNDS):
        order = list(runs)[number % len(runs) :] + list(runs)[: number % len(runs)]
        for key in order:
            begin = time.perf_counter()
            runs[key](steps)
            times[key].append((time.perf_counter() - begin) / steps)
    return times


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = Table(
        title=f"a masked step / a plain step, density {DENSITY}, torch {torch.__version__}, 1 thread"
    )
    for heading in ("network", "optimiser", "plain ms", "compressor.hold [range]", "nn.utils.prune [range]"):
        table.add_column(heading)
    for name, (_, _, steps) in NETWORKS.items():
        for title, make in OPTIMIZERS.items():
            times = measure(variants(name, make), steps)
            plain = statistics.median(times["plain"])
            cells = []
            for key in ("compressor.hold", "nn.utils.prune"):
                rounds = sorted(t / p for t, p in zip(times[key], times["plain"], strict=True))
                cells.append(
                    f"{statistics.median(times[key]) / plain:.3f} [{rounds[0]:.2f}-{rounds[-1]:.2f}]"
                )
            table.add_row(name, title, f"{plain * 1e3:.2f}", *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
