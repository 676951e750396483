"""The walk of verify: what it says of a faithful file, with and without model, data and runtimes."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from shipping import Shipped, failed, mlp, pruned, shipped
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from compressor.errors import InputError
from compressor.packed import pack
from exporters import verify
from exporters.onnx import export
from exporters.runtimes import RUNTIMES

ROW_KEYS = {
    "runtime",
    "ran",
    "reason",
    "version",
    "provider",
    "device",
    "threads",
    "samples",
    "max_error",
    "sigma",
}
ROW_KEYS |= {"ratio", "agreement", "accuracy", "milliseconds", "milliseconds_dense"}


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Shipped:
    x = torch.randn(400, 40, generator=torch.Generator().manual_seed(2))
    return shipped(tmp_path_factory.mktemp("net"), mlp(), x)


def test_a_faithful_file_passes_all_four_checks_in_order(net):
    verdict = verify(net.packed, net.onnx, model=net.model, data=net.data, dense=net.onnx)
    assert verdict.passed, verdict.failures()
    assert list(dict.fromkeys(c.check for c in verdict.checks)) == [
        "structure",
        "bits",
        "outputs",
        "decisions",
    ]
    assert [row.runtime for row in verdict.runtimes] == list(RUNTIMES)
    ran = {row.runtime: row for row in verdict.runtimes if row.ran}
    assert {"torch_cpu", "torch_sparse", "ort_cpu"} <= set(ran)
    for row in ran.values():
        assert (row.samples, row.referenced) == (400, 256)
        assert row.ratio < 8
        assert row.agreement == 1.0
        assert row.milliseconds > 0
        assert row.milliseconds_dense > 0
        assert row.version
        assert row.provider
        assert row.device
    assert ran["ort_cpu"].provider == "CPUExecutionProvider"
    assert ran["torch_sparse"].settings.startswith("sparse: 0.weight, 2.weight, 4.weight;")


def test_the_verdict_is_the_section_of_the_report(net):
    section = verify(net.packed, net.onnx, model=net.model, data=net.data).as_dict()
    assert json.loads(json.dumps(section, allow_nan=False)) == section
    assert set(section) == {"passed", "checks", "runtimes"}
    assert {"check", "runtime", "tensor", "passed", "value", "limit", "message"} <= set(section["checks"][0])
    assert all(set(row) >= ROW_KEYS for row in section["runtimes"])


def test_accuracy_is_that_of_torch_on_the_same_labels(net):
    x, _ = net.data
    with torch.no_grad():
        right = net.model(x).argmax(1)
    right[:100] = (right[:100] + 1) % 10
    verdict = verify(net.packed, net.onnx, model=net.model, data=(x, right))
    assert [row.accuracy for row in verdict.runtimes if row.ran] == [0.75] * 3


@pytest.mark.parametrize("size", [1, 7, 400])
def test_data_may_come_in_batches_of_any_size(net, size):
    loader = DataLoader(TensorDataset(*net.data), batch_size=size)
    verdict = verify(net.packed, net.onnx, model=net.model, data=loader, samples=20, runtimes=["ort_cpu"])
    assert verdict.passed
    assert (verdict.runtimes[0].samples, verdict.runtimes[0].referenced) == (400, 20)


def test_samples_all_holds_every_sample_against_float64(net):
    verdict = verify(
        net.packed, net.onnx, model=net.model, data=net.data, samples="all", runtimes=["ort_cpu"]
    )
    assert verdict.runtimes[0].referenced == 400


def test_without_data_random_inputs_are_used_and_the_row_says_so(net):
    verdict = verify(net.packed, net.onnx, model=net.model)
    assert verdict.passed
    assert all("random inputs" in c.message for c in verdict.checks if c.check == "outputs")
    assert verdict.runtimes[0].accuracy is None


def test_without_a_model_the_row_says_no_reference(net):
    verdict = verify(net.packed, net.onnx, data=net.data)
    assert verdict.passed
    rows = {row.runtime: row for row in verdict.runtimes}
    assert rows["torch_cpu"].reason == "no torch model was given"
    assert rows["ort_cpu"].ran
    assert rows["ort_cpu"].ratio is None
    assert rows["ort_cpu"].agreement == 1.0
    assert all("no reference" in c.message for c in verdict.checks if c.check in ("outputs", "decisions"))


def test_the_given_model_is_left_as_it_was(net):
    model = mlp().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    assert verify(net.packed, net.onnx, model=model, data=net.data, samples=16).passed
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_runtime_that_is_not_here_is_a_row_and_alone_a_failure(net, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    verdict = verify(net.packed, net.onnx, model=net.model, data=net.data, runtimes=["ort_cuda"])
    assert not verdict.runtimes[0].ran
    assert "onnxruntime-gpu" in verdict.runtimes[0].reason
    assert failed(verdict) == ({"outputs"}, "outputs: none of ort_cuda ran")


def test_several_inputs_and_outputs_without_classes(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(20, 12), nn.Linear(8, 12)

        def forward(self, a, b):
            both = self.one(a) * torch.sigmoid(self.two(b))
            return both, both.reshape(-1, 3, 4).sum(2)

    generator = torch.Generator().manual_seed(3)
    x = (torch.randn(40, 20, generator=generator), torch.randn(40, 8, generator=generator))
    net = shipped(tmp_path, Two(), x)
    verdict = verify(net.packed, net.onnx, model=net.model, data=net.data)
    assert verdict.passed, verdict.failures()
    (decision,) = [check for check in verdict.checks if check.check == "decisions"]
    assert not decision.ran
    assert decision.message == "not run: 2 outputs, not one with a value per class"


class WithHead(nn.Module):
    """An auxiliary head that only training uses."""

    def __init__(self):
        super().__init__()
        self.norm, self.head, self.spare = nn.BatchNorm1d(40), nn.Linear(40, 5), nn.Linear(40, 3)

    def forward(self, x):
        x = self.norm(x)
        return (self.head(x), self.spare(x)) if self.training else self.head(x)


def test_an_unused_head_may_be_absent_when_the_reference_shows_it(tmp_path):
    net = shipped(tmp_path, WithHead(), torch.randn(30, 40, generator=torch.Generator().manual_seed(4)))
    verdict = verify(net.packed, net.onnx, model=net.model, data=net.data)
    assert verdict.passed, verdict.failures()
    assert any(
        "spare.weight" in c.message and "norm.num_batches_tracked" in c.message for c in verdict.checks
    )
    # Without the model nothing shows it; counters may be missing all the same.
    checks, text = failed(verify(net.packed, net.onnx, data=net.data))
    assert checks == {"structure"}
    assert "structure spare.weight: not in the ONNX" in text
    assert "norm.num_batches_tracked" not in text


def test_shared_weights_are_listed_as_aliases(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(20, 20), nn.Linear(20, 20)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(torch.relu(self.one(x)))

    net = shipped(tmp_path, Tied(), torch.randn(20, 20, generator=torch.Generator().manual_seed(5)))
    verdict = verify(net.packed, net.onnx, model=net.model, data=net.data)
    assert verdict.passed, verdict.failures()
    assert "aliases: two.weight = one.weight" in verdict.checks[0].message


def test_an_export_that_names_no_packed_file_is_verified_all_the_same(net, tmp_path):
    model = mlp()
    mask = pruned(model)
    export(model, tmp_path / "net.onnx", net.data[0], mask=mask)
    verdict = verify(net.packed, tmp_path / "net.onnx", model=model, data=net.data, samples=16)
    assert verdict.passed, verdict.failures()
    assert "not recorded" in verdict.checks[0].message


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"runtimes": ["ort_cpuu"]}, 'unknown runtime "ort_cpuu"; did you mean "ort_cpu"?'),
        ({"samples": 0}, "samples is 0"),
        ({"data": []}, "hold no sample"),
        ({"data": 3}, "data of int cannot be used"),
        ({"data": (torch.full((3, 40), torch.nan), torch.zeros(3))}, "NaN or infinity"),
        ({"data": (torch.zeros(3, 40), torch.zeros(2))}, "labels of shape"),
        ({"data": (torch.zeros(3, 41), torch.zeros(3))}, "does not take inputs"),
        ({"dense": "nowhere.onnx"}, "nowhere.onnx: there is no such file"),
        ({"model": nn.Linear(3, 3)}, "does not fit this network"),
    ],
)
def test_bad_input_is_one_sentence(net, options, sentence):
    with pytest.raises(InputError, match="(?s)" + sentence.replace("?", r"\?")):
        verify(net.packed, net.onnx, **{"model": net.model, "data": net.data} | options)


def test_missing_files_are_input_errors(net, tmp_path):
    for packed, onnx in [(tmp_path / "no", net.onnx), (net.packed, tmp_path / "no")]:
        with pytest.raises(InputError, match="no: cannot be read"):
            verify(packed, onnx)


def test_a_start_is_not_verified(net, tmp_path):
    pack(net.model, tmp_path / "start", kind="start", mask=pruned(mlp()))
    with pytest.raises(InputError, match="is the start of a training"):
        verify(tmp_path / "start", net.onnx)


def test_verify_can_be_called_whichever_way_it_is_imported(net):
    code = f"""import sys, exporters
assert not {{"torch", "numpy", "onnx"}} & set(sys.modules)
from exporters.verify import verify
for way in (verify, exporters.verify):
    assert way({str(net.packed)!r}, {str(net.onnx)!r}, runtimes=["ort_cpu"]).passed
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_may_move(net, tmp_path):
    shutil.copy(net.packed, tmp_path / "a")
    shutil.copy(net.onnx, tmp_path / "b")
    assert verify(str(tmp_path / "a"), str(tmp_path / "b"), model=net.model, data=net.data, samples=16).passed
