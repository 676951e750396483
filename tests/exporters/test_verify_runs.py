"""The files are right and the run is not: narrow arithmetic and a wrong provider fail, by name."""

import onnx
import torch
from onnx import TensorProto, helper
from shipping import failed, judged, mlp, resealed, shipped

from exporters import verify


def test_a_run_in_bf16_fails_the_outputs_and_says_what_it_looks_like(net):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        checks, text = judged(net)
    assert checks == {"outputs"}
    assert text.startswith("outputs torch_cpu ")
    assert "bfloat16" in text


def test_a_graph_that_computes_in_bf16_fails_the_outputs(net):
    def narrow(model):
        nodes = []
        for node in model.graph.node:
            nodes.append(node)
            if node.op_type == "Gemm":
                inner = "/wide/" + node.output[0]
                nodes.append(helper.make_node("Cast", [inner], [inner + "/bf16"], to=TensorProto.BFLOAT16))
                nodes.append(
                    helper.make_node("Cast", [inner + "/bf16"], [node.output[0]], to=TensorProto.FLOAT)
                )
                node.output[0] = inner
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    original = onnx.load_model(str(net.onnx))
    assert any(node.op_type == "Gemm" for node in original.graph.node)
    resealed(net.onnx, narrow)
    checks, text = judged(net)
    assert checks == {"outputs"}
    assert text.startswith("outputs ort_cpu ")
    assert "bfloat16" in text


def test_a_model_in_bf16_fails_the_structure_and_is_named(net):
    model = mlp().to(torch.bfloat16)
    checks, text = failed(verify(net.packed, net.onnx, model=model, data=net.data))
    assert checks == {"structure"}
    assert "0.weight: the model holds it in torch.bfloat16, packed is F32" in text


def test_a_session_on_another_provider_fails_by_name(net, monkeypatch):
    """onnxruntime claims CUDA, falls back to the CPU without a word, and would compute the right numbers."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    names = ["torch_cpu", "ort_cpu", "ort_cuda"]
    verdict = verify(net.packed, net.onnx, model=net.model, data=net.data, runtimes=names)
    checks, text = failed(verdict)
    assert checks == {"outputs"}
    assert text.startswith("outputs ort_cuda: does not start")
    assert "CUDAExecutionProvider" in text


class Forgetful(torch.nn.Module):
    """Dropout that ignores eval mode: sigma alone would take its noise for rounding."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(20, 5)

    def forward(self, x):
        return self.fc(torch.nn.functional.dropout(x, 0.5))


def test_a_network_that_draws_random_numbers_fails_by_name(tmp_path):
    verdict = judged(shipped(tmp_path, Forgetful(), torch.randn(8, 20)))
    assert verdict[0] == {"outputs"}
    assert "draws random numbers" in verdict[1]
