"""The runtimes: what they compute, what ran sparse, where they ran, and what is said when they cannot."""

import importlib

import pytest
import torch
from shipping import mlp, pruned, shipped
from torch import nn
from torch.nn import functional

from exporters.runtimes import RUNTIMES, start
from exporters.runtimes.ort_session import open_session
from exporters.runtimes.session import AbsentError, Network, ProviderError, milliseconds


def sparse(model, *inputs, density=0.2):
    """Return (outputs of torch_sparse, what it says of itself), after comparing with the dense outputs."""
    mask = pruned(model.eval(), density)
    session = start("torch_sparse", Network(None, model, mask, None))
    got = session.run(inputs)
    with torch.no_grad():
        right = model(*inputs)
    torch.testing.assert_close(got[0], right, atol=1e-5, rtol=1e-5)
    return session.settings()


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_of_the_menu_has_a_start(name):
    assert callable(importlib.import_module(RUNTIMES[name]).start)


@pytest.mark.parametrize("name", ["torch_cpu", "torch_cuda", "torch_sparse"])
def test_torch_runtimes_without_a_module_are_absent(name):
    with pytest.raises(AbsentError, match="no torch model was given"):
        start(name, Network(None, None, {}, None))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(3, 8, 1, bias=False),
        nn.Conv2d(3, 8, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.Conv2d(3, 8, (3, 1), stride=(2, 1), padding="valid"),
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_a_convolution_runs_sparse_and_agrees(conv):
    assert sparse(conv, torch.randn(5, 3, 9, 11)) == "sparse: weight; dense: none"


def test_a_convolution_of_many_columns_runs_in_chunks(monkeypatch):
    monkeypatch.setattr("exporters.runtimes.torch_sparse.CHUNK", 1000)
    assert sparse(nn.Conv2d(3, 8, 3), torch.randn(7, 3, 9, 9)) == "sparse: weight; dense: none"


def test_one_dimension_runs_sparse():
    conv = nn.Conv1d(3, 8, 5, stride=2, padding=2, dilation=2)
    assert sparse(conv, torch.randn(4, 3, 40)) == "sparse: weight; dense: none"


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (nn.Conv2d(4, 8, 3, groups=2), (2, 4, 9, 9), "grouped"),
        (nn.ConvTranspose2d(4, 8, 3), (2, 4, 9, 9), "transposed"),
        (nn.Conv3d(2, 3, 3), (2, 2, 5, 5, 5), "3-d"),
    ],
)
def test_other_convolutions_stay_dense_and_say_why(layer, shape, reason):
    assert sparse(layer, torch.randn(shape)) == f"sparse: none; dense: weight ({reason})"


def test_dense_and_unpacked_weights_stay_dense_and_say_why():
    model = mlp()
    mask = pruned(model, 0.1)
    del mask["2.weight"]
    mask["4.weight"] = torch.ones_like(mask["4.weight"])
    session = start("torch_sparse", Network(None, model, mask, None))
    session.run([torch.randn(3, 40)])
    assert (
        session.settings() == "sparse: 0.weight; dense: 2.weight (not packed sparse), 4.weight (density 1.00)"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types_without_a_csr_product_stay_dense_and_say_so(dtype):
    model = nn.Linear(8, 4).to(dtype)
    session = start("torch_sparse", Network(None, model, pruned(model, 0.3), None))
    session.run([torch.randn(3, 8, dtype=dtype)])
    name = str(dtype).removeprefix("torch.")
    assert session.settings() == f"sparse: none; dense: weight (no CSR product in {name})"


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(12, 12)) for _ in range(3))
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)

    def forward(self, x):
        x = functional.linear(x, self.a) @ self.b.t()
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x * self.c[0]


def test_functional_code_and_attention_run_sparse():
    text = sparse(Functional(), torch.randn(2, 5, 12))
    assert text.startswith("sparse: a, b, attention.in_proj_weight, attention.out_proj.weight; dense: c (")


def test_a_weight_that_is_used_in_part_is_not_mistaken_for_the_whole():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(12, 6))

        def forward(self, x):
            return functional.linear(x, self.weight[:6])

    assert "used in part" in sparse(Part(), torch.randn(2, 6))


def test_a_session_on_another_provider_is_refused(tmp_path):
    net = shipped(tmp_path, nn.Sequential(nn.Linear(6, 3)), torch.randn(4, 6))
    for provider in ("CUDAExecutionProvider", "AzureExecutionProvider"):
        with pytest.raises(ProviderError, match=provider):
            open_session(net.onnx, provider, {})


def test_times_are_taken_in_turn_and_end():
    network = Network(None, mlp().eval(), {}, None)
    this, dense = milliseconds(start("torch_cpu", network), [torch.randn(1, 40)])
    assert 0 < this < 1000
    assert 0 < dense < 1000


@pytest.mark.gpu
def test_cuda_runtimes_verify_clean_and_tf32_does_not(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from exporters import verify
    from exporters.rounding import Reference, samples_of

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten())
    model.append(nn.Linear(64 * 14 * 14, 10))
    x = torch.randn(32, 3, 16, 16)
    net = shipped(tmp_path, model, x)
    verdict = verify(net.packed, net.onnx, model=model, data=net.data)
    assert verdict.passed, verdict.failures()
    assert next(row for row in verdict.runtimes if row.runtime == "torch_cuda").ran
    # The positive control: with TF32 on, the same bound must be broken.
    reference = Reference(model)
    right = reference.run([x])
    limit = 8 * reference.sigma([x], right)[0]
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    with torch.no_grad():
        got = model.cuda()(x.cuda()).cpu().double()
    assert bool((samples_of((got - right[0]).abs(), 32).amax(1) > limit).any())
