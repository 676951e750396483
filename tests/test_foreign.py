"""A network that nobody here wrote: somebody's resnet.py, his checkpoint and an npz, in one folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from compressor.cli import app

RESNET = """
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, planes_in, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.wider = planes_in != planes

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.wider:
            quarter = out.shape[1] // 4
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return F.relu(out + x)


class ResNet(nn.Module):
    def __init__(self, blocks, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)

    def _stage(self, planes_in, planes, blocks, stride):
        first = Block(planes_in, planes, stride)
        return nn.Sequential(first, *[Block(planes, planes, 1) for _ in range(blocks - 1)])

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(F.avg_pool2d(out, out.size()[3]).flatten(1))


def resnet20():
    return ResNet(3)
"""

JOB = """
[model]
name = "resnet:resnet20"
weights = "resnet20.th"

[data]
name = "npz:cifar10.npz"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]

[train]
lr = 0.01
epochs = 3
threads = 1
device = "cpu"

[prune]
method = "magnitude"
density = 0.2

[verify]
samples = 32
runtimes = ["torch_cpu", "ort_cpu"]
"""


def write_folder(folder: Path, data_dir: Path, train: int, test: int) -> None:
    (folder / "resnet.py").write_text(RESNET)
    (folder / "job.toml").write_text(JOB)
    with np.load(data_dir / "resnet20/resnet20.npz") as arrays:
        state = {f"module.{name}": torch.from_numpy(arrays[name]) for name in arrays.files}
    torch.save({"state_dict": state, "best_prec1": 91.78}, folder / "resnet20.th")
    with (
        np.load(data_dir / "cifar10-small.npz") as small,
        np.load(data_dir / "resnet20/cifar10-test1000.npz") as exact,
    ):
        np.savez(
            folder / "cifar10.npz",
            x_train=small["x_train"][:train],
            y_train=small["y_train"][:train],
            x_test=exact["x_test"][:test],
            y_test=exact["y_test"][:test],
        )


@pytest.mark.parametrize(
    ("train", "test", "given", "tuned"),
    [(256, 100, 0.9, 0.5), pytest.param(7051, 1000, 0.915, 0.85, marks=pytest.mark.slow)],
)
def test_somebody_s_resnet_is_pruned_tuned_shipped_and_proved_in_one_command(
    tmp_path, data_dir, train, test, given, tuned
):
    write_folder(tmp_path, data_dir, train, test)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "job.toml"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out/report.json").read_text())
    accuracy = report["accuracy"]
    assert set(accuracy) == {"given", "dense", "pruned", "final"}
    assert accuracy["given"] == accuracy["dense"] == pytest.approx(given, abs=0.04 if train < 1000 else 1e-9)
    assert accuracy["pruned"] < accuracy["final"] + 0.05
    assert accuracy["final"] > tuned
    assert report["density"]["kept"] == round(0.2 * report["density"]["total"])
    assert report["verification"]["passed"]
