"""Positions and decode chains: every code gives back every bit, in onnxruntime too."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from exporters import encodings
from exporters.decoder import decode
from exporters.encodings import chains, weight
from exporters.graph import digest_entry
from exporters.nodes import build
from exporters.positions import cheapest, encode

CODES = [
    ("gap", 2),
    ("gap", 6),
    ("gap", 9),
    ("elias-fano", 1),
    ("elias-fano", 4),
    ("elias-fano", 9),
    ("bitmask", 1),
]
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}


def made(name, values, mask, shape=None):
    bits = values.reshape(-1).view(f"u{values.itemsize}")
    return weight(name, TYPES[values.dtype.name], shape or values.shape, bits, mask.reshape(-1))


def random_weight(name, shape, density, levels, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    values = rng.choice([-0.25, 0.5], shape) if levels else rng.standard_normal(shape)
    return made(name, np.where(mask, values, 0.0).astype(dtype), mask)


def model_of(made_chains, weights):
    by_name = {one.name: one for one in weights}
    nodes = [*made_chains[0].table, *(node for chain in made_chains for node in chain.nodes)]
    parts = {name: part for chain in made_chains for name, part in chain.initialisers.items()}
    outputs = [
        helper.make_tensor_value_info(name, by_name[name].dtype, by_name[name].shape)
        for chain in made_chains
        for name in chain.names
    ]
    graph = helper.make_graph(nodes, "g", [], outputs, list(parts.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def rebuilt(made_chains, weights):
    model = model_of(made_chains, weights)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {}), strict=True))


def check_bits(made_chains, weights):
    arrays = rebuilt(made_chains, weights)
    for one in weights:
        assert arrays[one.name].shape == one.shape
        assert np.array_equal(arrays[one.name].reshape(-1).view(one.bits.dtype), one.bits)


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize(("code", "width"), CODES)
def test_every_code_rebuilds_several_tensors_in_one_chain(code, width, levels):
    weights = [
        random_weight(f"w{i}", shape, 0.1, levels) for i, shape in enumerate([(7, 31), (5,), (2, 3, 4, 5)])
    ]
    if not levels:
        weights = [replace(one, levels=None) for one in weights]
    positions = np.flatnonzero(np.concatenate([one.mask for one in weights]))
    check_bits([build("/0/", weights, encode(code, width, positions, 342))], weights)


@pytest.mark.parametrize(("code", "width"), CODES)
@pytest.mark.parametrize(
    "kept", [[], [0], [63], list(range(64)), [0, 63], list(range(56)), list(range(1, 64, 2))]
)
def test_every_code_rebuilds_masks_at_the_edges(code, width, kept):
    mask = np.zeros(64, np.bool_)
    mask[kept] = True
    values = np.where(mask, np.arange(1, 65, dtype=np.float32), np.float32(0))
    one = made("w", values, mask)
    if kept:
        one = replace(one, levels=None)
    check_bits([build("/0/", [one], encode(code, width, np.flatnonzero(mask), 64))], [one])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    kept=st.lists(st.integers(0, 2999), unique=True, max_size=400),
    code=st.sampled_from(CODES),
)
def test_positions_survive_an_obvious_decoder(kept, code):
    positions = np.array(sorted(kept), np.int64)
    encoded = encode(*code, positions, 3000)
    symbols = (encoded.planes.astype(np.int64) << np.arange(len(encoded.planes))[:, None]).sum(axis=0)
    found, place = [], -1
    if encoded.code == "gap":
        for symbol in symbols:
            place += min(int(symbol) + 1, 2**encoded.width - 1)
            if symbol != 2**encoded.width - 1:
                found.append(place)
    elif encoded.code == "bitmask":
        found = [place for place, bit in enumerate(encoded.unary) if bit]
    else:
        high = 0
        for bit in encoded.unary:
            if bit:
                found.append((high << encoded.width) + int(symbols[len(found)]))
            high += not bit
        found = found[: len(kept)]
    assert found == sorted(kept)
    assert encoded.planes.shape[1] % 8 == 0
    assert len(encoded.unary) % 8 == 0


@pytest.mark.parametrize("density", [0.001, 0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("value_bits", [1, 32])
def test_the_counted_size_is_the_size_of_the_payload(density, value_bits):
    positions = np.flatnonzero(np.random.default_rng(1).random(20_000) < density)
    code, width, bits = cheapest(positions, 20_000, value_bits)
    encoded = encode(code, width, positions, 20_000)
    payload = encoded.planes.size + encoded.unary.size + encoded.planes.shape[1] * value_bits
    assert 0 <= bits - payload <= 8 * 500


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_signed_zeros_subnormals_and_extremes_survive(dtype):
    info = np.finfo(dtype)
    special = [-0.0, 0.0, info.smallest_subnormal, -info.max, info.tiny, 1.0, -1.5, info.eps]
    values = np.zeros(4096, dtype)
    values[::8] = np.resize(np.array(special, dtype), 512)
    mask = np.zeros(4096, np.bool_)
    mask[::8] = True
    one = made("w", values, mask, (64, 64))
    check_bits(chains([one]), [one])


@pytest.mark.parametrize("pair", [(-0.0, 0.0), (0.0, 3.0), (-7.0, -2.0), (5.0, 5.0), (1e-45, 3e38)])
def test_two_levels_may_be_any_two_floats(pair):
    mask = np.arange(20_000) % 5 == 0
    values = np.where(mask, np.resize(np.array([*pair, pair[1]], np.float32), 20_000), np.float32(0))
    one = made("w", values, mask)
    assert one.levels is not None
    low, high = one.levels.view(np.float32)
    assert low <= high
    assert {low.tobytes(), high.tobytes()} == {np.float32(level).tobytes() for level in pair}
    made_chains = chains([one])
    assert made_chains[0].size < 20_000 / 8 + 4_000
    check_bits(made_chains, [one])


def test_a_tensor_that_would_grow_stays_dense():
    assert chains([random_weight("w", (5, 5), 0.5, levels=False)]) == []
    assert chains([random_weight("w", (300, 300), 1.0, levels=False)]) == []


def test_an_empty_layer_costs_no_more_than_its_chain():
    one = random_weight("w", (1000, 300), 0.0, levels=False)
    made_chains = chains([one])
    assert made_chains[0].size < 2_000
    check_bits(made_chains, [one])


def test_large_tensors_get_a_chain_of_their_own(monkeypatch):
    monkeypatch.setattr(encodings, "ONE_CHAIN", 10_000)
    shapes = [(200, 100), (50, 50), (60, 60), (90, 90)]
    weights = [random_weight(f"w{i}", shape, 0.05, levels=False) for i, shape in enumerate(shapes)]
    made_chains = chains(weights)
    assert [chain.names for chain in made_chains] == [("w0",), ("w1", "w2"), ("w3",)]
    check_bits(made_chains, weights)


def test_kinds_do_not_share_a_chain():
    weights = [
        random_weight("float", (100, 100), 0.05, levels=False),
        random_weight("levels", (100, 100), 0.05, levels=True),
        random_weight("half", (100, 100), 0.05, levels=False, dtype="float16"),
        random_weight("levels too", (100, 100), 0.05, levels=True, seed=1),
    ]
    made_chains = chains(weights)
    assert [chain.names for chain in made_chains] == [("float",), ("levels", "levels too"), ("half",)]
    check_bits(made_chains, weights)


def test_a_tensor_of_two_kept_weights_joins_a_chain_of_floats():
    few = np.zeros((50, 50), np.float32)
    few[3, 4], few[20, 1] = 1.5, -2.5
    weights = [random_weight("w", (100, 100), 0.05, levels=False), made("few", few, few != 0)]
    made_chains = chains(weights)
    assert [chain.names for chain in made_chains] == [("w", "few")]
    check_bits(made_chains, weights)


def test_only_operators_that_every_runtime_folds_are_used():
    used = set()
    for density in (0.01, 0.05, 0.5):
        for levels in (False, True):
            for chain in chains([random_weight("w", (300, 200), density, levels)]):
                used |= {node.op_type for node in chain.nodes}
    banned = {"NonZero", "Loop", "Scan", "If", "BitShift", "BitwiseAnd", "Range", "Compress", "Unique"}
    assert used
    assert not used & banned


def test_the_numpy_decoder_agrees_with_onnxruntime(tmp_path):
    weights = [
        random_weight(f"w{i}", (50, 60), d, lv) for i, (d, lv) in enumerate([(0.02, 0), (0.02, 1), (0.6, 1)])
    ]
    made_chains = chains(weights)
    model = model_of(made_chains, weights)
    del model.graph.output[:]
    model.metadata_props.add(key="compressor.encoding", value="compact")
    body = model.SerializeToString()
    (tmp_path / "w.onnx").write_bytes(body + digest_entry(body))
    decoded = decode(tmp_path / "w.onnx")
    for name, array in rebuilt(made_chains, weights).items():
        assert array.tobytes() == decoded[name].tobytes()
