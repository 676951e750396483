"""No false alarm: networks of every kind, with random weights, verify clean in every runtime."""

import pytest
import torch
from shipping import mlp, shipped
from torch import nn
from torch.nn import functional

from exporters import verify


class Attention(nn.Module):
    """Functional projections, torch's attention and a LayerNorm."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(24, 24) / 5)
        self.block = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True, dropout=0.0)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 7)

    def forward(self, x):
        x = self.block(functional.linear(x, self.query))
        return self.head(self.norm(x).mean(1))


class Shallow(nn.Module):
    """MobileNet-like: depthwise, BN, hard gates, a squeeze, and a plane that pruning leaves constant."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.deep, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.squeeze, self.point = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 5)
        for norm in (self.bn1, self.bn2):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.1, 2)

    def forward(self, x):
        x = functional.relu6(self.bn1(self.stem(x)))
        x = functional.hardswish(self.bn2(self.deep(x)))
        x = x * functional.hardsigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        return self.head(self.point(x).mean((2, 3)))


def upsampled():
    """Transposed and dilated convolutions, GroupNorm, and an output with a value per pixel."""
    layers = [
        nn.Conv2d(3, 8, 3, dilation=2),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
    ]
    return nn.Sequential(*layers)


def one_dimensional():
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2), nn.GELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)
    )


def vanishing():
    """Activations far below the smallest float32: flushed to zero there, and not in float64."""
    layers = [layer for _ in range(12) for layer in (nn.Linear(20, 20), nn.Tanh())]
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1e-4 if parameter.ndim > 1 else 0)
    return net


def constant():
    net = mlp(4)
    with torch.no_grad():
        net[4].weight.zero_()
        net[4].bias.fill_(0.1)
    return net


def nothing():
    net = mlp(4)
    with torch.no_grad():
        net[4].weight.zero_()
        net[4].bias.zero_()
    return net


FLAT, IMAGE = (40,), (3, 12, 12)
NETS = {
    "one output": (lambda: mlp(1), FLAT),
    "a probability": (lambda: nn.Sequential(mlp(1), nn.Sigmoid()), FLAT),
    "two outputs": (lambda: mlp(2), FLAT),
    "a thousand outputs": (lambda: nn.Sequential(mlp(1000), nn.Softmax(1)), FLAT),
    "constant outputs": (constant, FLAT),
    "zero outputs": (nothing, FLAT),
    "vanishing activations": (vanishing, (20,)),
    "attention": (Attention, (9, 24)),
    "mobilenet-like": (Shallow, IMAGE),
    "a value per pixel": (upsampled, IMAGE),
    "one dimension": (one_dimensional, (3, 30)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("density", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_random_network_verifies_clean(name, density, tmp_path):
    make, shape = NETS[name]
    torch.manual_seed(0)
    model = make()
    x = torch.randn(200, *shape, generator=torch.Generator().manual_seed(1))
    x[150] *= 1000  # an outlier that sigma was not measured on
    net = shipped(tmp_path, model, x, density=density)
    verdict = verify(net.packed, net.onnx, model=model, data=net.data, samples=100)
    assert verdict.passed, verdict.failures()
    assert [row.runtime for row in verdict.runtimes if row.ran][:3] == [
        "torch_cpu",
        "torch_sparse",
        "ort_cpu",
    ]


def test_a_pre_norm_encoder_exports_although_torch_has_it_as_one_operator(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 4, 48, activation="gelu", batch_first=True, norm_first=True)
    net = shipped(
        tmp_path, nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), torch.randn(20, 9, 24)
    )
    before = torch.backends.mha.get_fastpath_enabled()
    verdict = verify(net.packed, net.onnx, model=net.model, data=net.data)
    assert verdict.passed, verdict.failures()
    assert torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_verifies_with_its_own_rounding(dtype, tmp_path):
    x = torch.randn(20, 40).to(dtype)
    net = shipped(tmp_path, mlp().to(dtype), x)
    verdict = verify(net.packed, net.onnx, model=net.model, data=net.data)
    assert verdict.passed, verdict.failures()
    rows = {row.runtime: row for row in verdict.runtimes}
    assert rows["torch_cpu"].ran
    assert 0 < rows["torch_cpu"].ratio < 8
    assert rows["torch_sparse"].ran
    if dtype is torch.bfloat16:
        assert "CPUExecutionProvider lacks a kernel" in rows["ort_cpu"].reason
    else:
        assert rows["ort_cpu"].ran


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 2, 1000])
@pytest.mark.parametrize(
    "name", ["lenet-300-100", "conv2", "conv4", "conv6", "resnet20", "vgg11", "resnet18"]
)
def test_every_network_of_the_menu_verifies_clean(name, outputs, tmp_path):
    from compressor.models import build

    shape = (1, 28, 28) if name.startswith("lenet") else (3, 32, 32)
    model = build(name, shape=shape, classes=outputs, seed=0)
    x = torch.randn(24, *shape, generator=torch.Generator().manual_seed(1))
    net = shipped(tmp_path, model, x)
    verdict = verify(net.packed, net.onnx, model=model, data=net.data, samples=16)
    assert verdict.passed, verdict.failures()
