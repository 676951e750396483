"""The noise that whole planes share: what runtimes do is within it, and bfloat16 is still far outside."""

import onnxruntime
import pytest
import torch
from shipping import pruned
from torch import nn
from torch.nn import functional

from exporters.noise_planes import systematic
from exporters.onnx import export
from exporters.rounding import Reference


def ratios(model, x, folder):
    """Return the largest error in sigmas of torch float32, onnxruntime, and torch bfloat16."""
    model.eval()
    reference = Reference(model)
    right = reference.run([x])
    sigma = reference.sigma([x], right)[0]
    export(model, folder / "net.onnx", x)
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        outputs = [
            model(x),
            torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]),
        ]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs.append(model(x))
    errors = [(output.double() - right[0]).abs().reshape(len(x), -1).amax(1) for output in outputs]
    return [float((error / sigma).max()) for error in errors]


def normed(norm):
    layers = [nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), norm(8)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@pytest.mark.parametrize(
    ("norm", "density", "narrow"),
    [
        (lambda n: nn.GroupNorm(4, n), 1.0, 5000),
        (lambda n: nn.GroupNorm(4, n), 0.02, 100),
        (lambda n: nn.InstanceNorm2d(n, affine=True), 0.02, 15),
    ],
)
def test_normed_planes_that_pruning_leaves_constant_raise_no_alarm(norm, density, narrow, tmp_path):
    """Without the systematic part onnxruntime was at 126 and 34 sigma."""
    torch.manual_seed(2)
    net = normed(norm)
    pruned(net, density)
    single, other, half = ratios(net, torch.randn(2, 3, 64, 64), tmp_path)
    assert max(single, other) < 4
    assert half > narrow


def test_a_transposed_convolution_with_gaps_before_a_norm_raises_no_alarm(tmp_path):
    torch.manual_seed(2)
    net = nn.Sequential(nn.ConvTranspose2d(3, 6, 2, stride=4), nn.GroupNorm(2, 6), nn.ReLU())
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)])
    assert max(ratios(net, torch.randn(8, 3, 16, 16), tmp_path)[:2]) < 4


def test_only_equal_addends_err_systematically():
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.full((4096,), 0.3), torch.zeros(4096), torch.randn(4096, generator=generator)])
    found = systematic(rows.double()).flatten().tolist()
    assert found[0] == pytest.approx(4096 / 16, rel=0.01)
    assert found[1] == 0.0
    assert found[2] < 1


class Resized(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 8, 3, padding=1), how

    def forward(self, x):
        return functional.interpolate(self.conv(x).relu(), **self.how)


@pytest.mark.parametrize(
    "how",
    [
        {"scale_factor": 2, "mode": "bilinear"},
        {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
        {"scale_factor": 1.7, "mode": "bilinear"},
        {"size": (37, 41), "mode": "bilinear"},
        {"size": (37, 41), "mode": "bicubic"},
    ],
)
def test_rounded_source_coordinates_raise_no_alarm(how, tmp_path):
    torch.manual_seed(0)
    single, other, half = ratios(Resized(**how), torch.randn(8, 3, 16, 16), tmp_path)
    assert 0.4 < max(single, other) < 4
    assert half > 500


class Between(nn.Module):
    def __init__(self, function, scale):
        super().__init__()
        self.one, self.two = nn.Linear(16, 32, bias=False), nn.Linear(32, 3, bias=False)
        self.function, self.scale = function, scale

    def forward(self, x):
        return self.two(self.function(self.one(x * self.scale)))


@pytest.mark.parametrize("function", [functional.elu, functional.selu, functional.celu, torch.expm1])
def test_small_numbers_through_exp_minus_one_raise_no_alarm(function, tmp_path):
    torch.manual_seed(0)
    assert max(ratios(Between(function, 1e-3), torch.randn(16, 16), tmp_path)[:2]) < 4


@pytest.mark.parametrize("bias", [-12.0, 12.0])
def test_the_logarithm_of_a_sigmoid_raises_no_alarm(bias, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 1), nn.LogSigmoid())
    nn.init.constant_(net[0].bias, bias)
    assert max(ratios(net, torch.randn(16, 16), tmp_path)[:2]) < 6
