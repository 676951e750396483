"""Whatever is done to a file or a run, verify fails and names it. Changed files are sealed with a right digest."""

import random

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from shipping import failed, initialiser, judged, mlp, resealed, shipped
from torch import nn

from compressor.packed import pack
from exporters import verify
from exporters.onnx import export


@pytest.mark.parametrize("net", ["compact", "dense"], indirect=True)
def test_resealing_alone_changes_nothing(net):
    resealed(net.onnx, lambda model: None)
    assert judged(net) == (set(), "")


@pytest.mark.parametrize("net", ["compact", "dense"], indirect=True)
def test_any_flipped_bit_of_the_onnx_file_fails_the_structure(net):
    data = net.onnx.read_bytes()
    chosen = random.Random(0).sample(range(8 * len(data)), 150)
    for bit in [*range(64), *chosen, *range(8 * len(data) - 64, 8 * len(data))]:
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        net.onnx.write_bytes(wrong)
        checks, text = failed(verify(net.packed, net.onnx))
        assert checks == {"structure"}, bit
        assert "net.onnx" in text


def test_a_truncated_or_longer_file_fails_the_structure(net):
    data = net.onnx.read_bytes()
    for wrong in (b"", data[:-1], data[: len(data) // 2], data + b"\0", b"not onnx"):
        net.onnx.write_bytes(wrong)
        assert judged(net)[0] == {"structure"}


def test_one_revived_zero_fails_the_structure_with_tensor_and_place(net):
    place = (net.model[2].weight == 0).nonzero()[5].tolist()

    def revive(model):
        tensor = initialiser(model, "2.weight")
        values = np.frombuffer(tensor.raw_data, "<f4").reshape(40, 40).copy()
        values[tuple(place)] = 1e-30
        tensor.raw_data = values.tobytes()

    resealed(net.onnx, revive)
    checks, text = judged(net)
    assert checks == {"structure"}
    assert text.startswith("structure 2.weight: 1 zeros of the packed file are not zero in the ONNX")
    assert str(place) in text


@pytest.mark.parametrize("net", ["compact"], indirect=True)
def test_one_changed_position_in_a_decode_chain_fails_with_a_name(net):
    def change(model):
        symbols = next(i for i in model.graph.initializer if i.name.endswith("/w0"))
        raw = bytearray(symbols.raw_data)
        raw[len(raw) // 2] ^= 1
        symbols.raw_data = bytes(raw)

    resealed(net.onnx, change)
    checks, text = judged(net)
    assert checks == {"structure"}
    assert ".weight" in text


def test_two_swapped_layers_fail_the_structure_with_both_names(net):
    def swap(model):
        one, two = initialiser(model, "0.weight"), initialiser(model, "2.weight")
        one.raw_data, two.raw_data = two.raw_data, one.raw_data

    resealed(net.onnx, swap)
    checks, text = judged(net)
    assert checks == {"structure"}
    assert "structure 0.weight" in text
    assert "structure 2.weight" in text


def test_two_layers_used_in_each_others_place_fail_the_outputs(net):
    """Names, zeros and bits are all right: only a run can see it."""

    def swap(model):
        other = {"0.weight": "2.weight", "2.weight": "0.weight"}
        for node in model.graph.node:
            node.input[:] = [other.get(name, name) for name in node.input]

    resealed(net.onnx, swap)
    checks, text = judged(net)
    assert checks == {"outputs"}
    assert text.startswith("outputs ort_cpu ")
    assert "sigma, limit 8" in text


def test_one_weight_off_by_its_last_bit_fails_the_bits(net):
    place = int(net.model[0].weight.flatten().nonzero()[3])

    def nudge(model):
        tensor = initialiser(model, "0.weight")
        raw = bytearray(tensor.raw_data)
        raw[4 * place] ^= 1
        tensor.raw_data = bytes(raw)

    resealed(net.onnx, nudge)
    checks, text = judged(net)
    assert checks == {"bits"}
    assert text.startswith("bits 0.weight: 1 of 1600 values differ by our own decoder")


def test_a_bias_off_by_one_bit_fails_the_bits(net):
    def nudge(model):
        tensor = initialiser(model, "4.bias")
        raw = bytearray(tensor.raw_data)
        raw[0] ^= 1
        tensor.raw_data = bytes(raw)

    resealed(net.onnx, nudge)
    assert judged(net)[1].startswith("bits 4.bias: 1 of 10 values differ")


def test_a_wrong_level_fails_the_bits_with_its_tensor(tmp_path):
    model = mlp()
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.where(layer.weight > 0, 0.25, -0.125))
    net = shipped(tmp_path, model, torch.randn(20, 40, generator=torch.Generator().manual_seed(2)))
    level = np.float32(0.25).tobytes()

    def change(model):
        for tensor in model.graph.initializer:
            if level in tensor.raw_data and len(tensor.raw_data) <= 64:
                tensor.raw_data = tensor.raw_data.replace(level, np.float32(0.25000003).tobytes(), 1)
                return
        pytest.fail("no initialiser holds the level")

    resealed(net.onnx, change)
    checks, text = judged(net)
    assert checks == {"bits"}
    assert ".weight" in text


def test_a_missing_tensor_fails_the_structure_if_the_network_needs_it(net):
    def drop(model):
        tensor = initialiser(model, "0.bias")
        tensor.name = "/inner"
        for node in model.graph.node:
            node.input[:] = ["/inner" if name == "0.bias" else name for name in node.input]

    resealed(net.onnx, drop)
    text = judged(net)[1]
    assert text == "structure 0.bias: not in the ONNX, and the float64 reference depends on it"


def test_a_foreign_tensor_fails_the_structure(net):
    def add(model):
        model.graph.initializer.append(
            helper.make_tensor("extra", TensorProto.FLOAT, [1], b"\0\0\0\0", raw=True)
        )

    resealed(net.onnx, add)
    assert judged(net)[1] == "structure extra: in the ONNX, but not in the packed file"


def test_a_stale_packed_file_is_named(net):
    with torch.no_grad():
        other = mlp()
        other.load_state_dict(net.model.state_dict())
        other[4].bias += 1
    pack(other, net.packed, mask={name: p != 0 for name, p in other.named_parameters() if p.ndim > 1})
    checks, text = judged(net)
    assert checks == {"structure"}
    assert "net.safetensors is not the packed file that net.onnx was exported from" in text
    assert "stale" in text


def test_a_packed_file_with_the_same_tensors_but_other_bytes_is_stale(net):
    pack(net.model, net.packed)
    assert "stale" in judged(net)[1]


def test_another_networks_onnx_fails_the_structure(net):
    export(nn.Sequential(nn.Linear(40, 10)), net.onnx, net.data[0])
    with_model = judged(net)
    assert with_model[0] == {"structure"}
    assert "0.weight" in with_model[1]
