"""Positions and decode chains: every code gives back every bit, in onnxruntime too."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from exporters import encodings, nodes
from exporters.decoder import decode
from exporters.encodings import chains, weight
from exporters.graph import digest_entry
from exporters.positions import Code, Digits, cheapest, gaps, padding, words

STREAMS = [
    (Digits("<u1", 1, 256),),
    (Digits("<u1", 2, 16),),
    (Digits("<u1", 3, 6),),
    (Digits("<u2", 3, 40),),
    (Digits("<i4", 5, 73),),
    (Digits("<i4", 7, 21), Digits("<u2", 3, 40)),
    (Digits("<u1", 4, 4), Digits("<u1", 4, 4)),
    (),
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
    made_nodes = [node for chain in made_chains for node in chain.nodes]
    parts = {name: part for chain in made_chains for name, part in chain.initialisers.items()}
    outputs = [
        helper.make_tensor_value_info(name, by_name[name].dtype, by_name[name].shape)
        for chain in made_chains
        for name in chain.names
    ]
    graph = helper.make_graph(made_nodes, "g", [], outputs, list(parts.values()))
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
@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("row", [1, 230, 10**6])
def test_every_code_rebuilds_several_tensors_in_one_chain(streams, levels, row, monkeypatch):
    monkeypatch.setattr(nodes, "ROW", row)
    weights = [
        random_weight(f"w{i}", shape, 0.1, levels) for i, shape in enumerate([(7, 31), (5,), (2, 3, 4, 5)])
    ]
    weights.append(random_weight("none", (3, 4), 0.0, levels))
    if not levels:
        weights = [replace(one, levels=None) for one in weights]
    check_bits([nodes.build("/0/", weights, Code(streams, levels))], weights)


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize(
    "kept", [[], [0], [63], list(range(64)), [0, 63], list(range(56)), list(range(1, 64, 2))]
)
def test_every_code_rebuilds_masks_at_the_edges(streams, levels, kept):
    mask = np.zeros(64, np.bool_)
    mask[kept] = True
    values = (
        np.resize(np.array([-1.5, 2.0], np.float32), 64) if levels else np.arange(1, 65, dtype=np.float32)
    )
    one = made("w", np.where(mask, values, np.float32(0)), mask)
    if not levels:
        one = replace(one, levels=None)
    check_bits([nodes.build("/0/", [one], Code(streams, levels))], [one])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    kept=st.lists(st.integers(0, 2999), unique=True, max_size=400),
    streams=st.sampled_from(STREAMS[:-1]),
    levels=st.booleans(),
)
def test_positions_survive_an_obvious_decoder(kept, streams, levels):
    code = Code(streams, levels)
    positions = np.array(sorted(kept), np.int64)
    symbols, slots = gaps(code, positions, positions % 2 == 1 if levels else None)
    filled = np.pad(symbols, (0, padding(len(symbols), code.multiple)))
    read = np.zeros(len(filled), np.int64)
    for how, stored in zip(streams, words(code, filled), strict=True):
        assert stored.min() >= 0
        digits = [int(word) // how.base**place % how.base for word in stored for place in range(how.count)]
        read = read * how.base + digits
    assert read[: len(symbols)].tolist() == symbols.tolist()
    place, found, high = 0, [], []
    for number, symbol in enumerate(symbols.tolist()):
        escape = number not in slots
        if levels and symbol:
            place += (symbol - 1) % (code.reach + 1)
            high.append(symbol > code.reach + 1)
        else:
            place += code.reach if levels else symbol
        assert not escape or (symbol == 0 if levels else symbol == code.reach)
        found += [] if escape else [place]
    assert found == sorted(kept)
    assert high == [position % 2 == 1 for position in found] * levels


@pytest.mark.parametrize("density", [0.001, 0.02, 0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("levels", [False, True])
def test_the_counted_size_is_the_size_of_the_payload(density, levels):
    one = random_weight("w", (200, 1000), density, levels)
    bits, code = cheapest(np.flatnonzero(one.mask), 200_000, 32, levels)
    chain = nodes.build("/0/", [one], code)
    payload = sum(len(part.raw_data) for part in chain.initialisers.values())
    assert 0 <= payload - (bits / 8 - 1000 * (len(code.streams) == 2)) <= 200


def test_large_tensors_need_no_split():
    weights = [random_weight(f"w{i}", (400, 400), 0.05, levels=False, seed=i) for i in range(3)]
    chain = chains(weights)[0]
    assert chain.names == ("w0", "w1", "w2")
    assert [node.op_type for node in chain.nodes].count("Split") == 1
    check_bits([chain], weights)


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
