"""A graph must use the tensors it holds, and no others: sealed files whose network reads something else."""

import pytest
import torch
from onnx import TensorProto, helper
from shipping import failed, initialiser, judged, resealed, shipped
from torch import nn

from exporters import verify


def test_a_tensor_that_the_network_does_not_use_fails_the_structure(net):
    """The bits of 4.bias are right, but the network adds other numbers."""

    def replace(model):
        true = initialiser(model, "4.bias")
        model.graph.initializer.append(
            helper.make_tensor("/other", TensorProto.FLOAT, true.dims, bytes(len(true.raw_data)), raw=True)
        )
        for node in model.graph.node:
            node.input[:] = ["/other" if name == "4.bias" else name for name in node.input]
        model.graph.node.insert(0, helper.make_node("Identity", ["4.bias"], ["/unused"]))

    resealed(net.onnx, replace)
    text = "structure 4.bias: in the ONNX, but its network does not use it"
    assert judged(net) == ({"structure"}, text)
    assert failed(verify(net.packed, net.onnx)) == ({"structure"}, text)


@pytest.mark.parametrize("net", ["compact", "dense"], indirect=True)
def test_a_constant_in_the_place_of_a_weight_fails_the_structure(net):
    """The true weight is still used, for nothing."""
    values = (net.model[4].weight.detach() * (1 + 2**-22)).numpy()

    def shadow(model):
        graph = model.graph
        graph.initializer.append(
            helper.make_tensor("/shadow", TensorProto.FLOAT, values.shape, values.tobytes(), raw=True)
        )
        for node in graph.node:
            if node.op_type in ("Gemm", "MatMul", "Transpose"):
                node.input[:] = ["/shadow" if name == "4.weight" else name for name in node.input]
        last = next(node for node in graph.node if graph.output[0].name in node.output)
        last.output[0] = "/last"
        nothing = helper.make_tensor("/0", TensorProto.FLOAT, [1], b"\0\0\0\0", raw=True)
        graph.initializer.append(nothing)
        graph.node.extend(
            [
                helper.make_node("ReduceMax", ["4.weight"], ["/max"], keepdims=0),
                helper.make_node("Mul", ["/max", "/0"], ["/nothing"]),
                helper.make_node("Add", ["/last", "/nothing"], [graph.output[0].name]),
            ]
        )

    resealed(net.onnx, shadow)
    text = "structure /shadow: a constant in the place of a weight, in no packed file, and "
    assert judged(net) == ({"structure"}, text + "the model's own export has no such constant")
    without = failed(verify(net.packed, net.onnx))
    assert without == ({"structure"}, text + "no model shows that its code has it")


def test_a_constant_that_the_model_itself_multiplies_with_is_no_sabotage(tmp_path):
    class Blurred(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.register_buffer("kernel", torch.tensor([[[[1.0, 2, 1]]]]) / 4, persistent=False)

        def forward(self, x):
            return self.conv(nn.functional.conv2d(x, self.kernel)).mean((2, 3))

    net = shipped(tmp_path, Blurred(), torch.randn(20, 1, 8, 8), density=0.5)
    assert judged(net) == (set(), "")
    assert "/c0: a constant in the place of a weight" in failed(verify(net.packed, net.onnx))[1]
