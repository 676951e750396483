"""LeNet-300-100 at 95 % sparsity as ONNX: bytes, load time and run time, compact beside dense in one process.

`python benchmarks/onnx_load.py` prints a table. The mask is random (a trained one is smaller). Times are
processor time of the one thread that works, so that other programs disturb them less, and interleaved: each
round measures every file once; ratios are of the medians over the rounds.
"""

import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from exporters.onnx import export

DENSITY = 0.05
ROUNDS = 60
RUNS_PER_ROUND = 20
BATCH = 64


def network(two_levels: bool) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Return LeNet-300-100 under a random mask, its kept weights random or of two levels."""
    generator = torch.Generator().manual_seed(0)
    layers = {"fc1": nn.Linear(784, 300), "fc2": nn.Linear(300, 100), "fc3": nn.Linear(100, 10)}
    mask = {}
    with torch.no_grad():
        for name, layer in layers.items():
            kept = torch.rand(layer.weight.shape, generator=generator) < DENSITY
            values = torch.randn(layer.weight.shape, generator=generator)
            levels = torch.where(values > 0, values.abs().mean(), -values.abs().mean())
            layer.weight.copy_((levels if two_levels else values).masked_fill(~kept, 0.0))
            mask[f"{name}.weight"] = kept
    (first, second, third), act = layers.items(), nn.ReLU()
    steps = [("flatten", nn.Flatten()), first, ("relu1", act), second, ("relu2", act), third]
    model = nn.Sequential()
    for name, module in steps:
        model.add_module(name, module)
    return model, mask


def load(path: Path) -> onnxruntime.InferenceSession:
    """Return a session with one thread and default optimisation."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(paths: dict[str, Path]) -> dict[str, tuple[float, float]]:
    """Return {name: (load, run)}, medians in milliseconds."""
    inputs = {"input": np.random.default_rng(0).standard_normal((BATCH, 784), dtype=np.float32)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    outputs = {}
    for _ in range(ROUNDS):
        for name, path in paths.items():
            start = time.thread_time()
            session = load(path)
            loaded = time.thread_time()
            for _ in range(RUNS_PER_ROUND):
                outputs[name] = session.run(None, inputs)[0]
            run = (time.thread_time() - loaded) / RUNS_PER_ROUND
            times[name].append((1e3 * (loaded - start), 1e3 * run))
    for values in ("float", "two levels"):
        same = outputs[f"dense, {values}"].tobytes() == outputs[f"compact, {values}"].tobytes()
        print(f"outputs of compact and dense, {values}: {'bit-identical' if same else 'DIFFERENT'}")
    return {
        name: (statistics.median(t[0] for t in found), statistics.median(t[1] for t in found))
        for name, found in times.items()
    }


def main() -> None:
    """Export the four files, measure them and print the table."""
    torch.set_num_threads(1)
    versions = f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"
    print(f"python {platform.python_version()}, {versions}, numpy {np.__version__}, 1 thread, batch {BATCH}")
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for values in ("float", "two levels"):
            model, mask = network(values == "two levels")
            for encoding in ("dense", "compact"):
                name = f"{encoding}, {values}"
                paths[name] = Path(folder) / f"{encoding}-{values[0]}.onnx"
                export(model, paths[name], torch.zeros(2, 784), mask=mask, encoding=encoding)
        times = measure(paths)
        print(f"{'file':20} {'bytes':>9} {'load ms':>8} {'/ dense':>8} {'run ms':>8} {'/ dense':>8}")
        for name, path in paths.items():
            loaded, run = times[name]
            base_load, base_run = times["dense, " + name.split(", ")[1]]
            ratios = f"{loaded:8.2f} {loaded / base_load:8.2f} {run:8.3f} {run / base_run:8.2f}"
            print(f"{name:20} {path.stat().st_size:9,} {ratios}")


if __name__ == "__main__":
    main()
