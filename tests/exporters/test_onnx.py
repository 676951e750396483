"""Export: names, bits and outputs of a network survive; whatever does not fit is refused in one sentence."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from compressor.errors import FormatError, HostError, InputError
from exporters.onnx import chains_model, decode, export, read

DENSITY = 0.05


def pruned(model, density=DENSITY, levels=False):
    """Prune every tensor of two or more dimensions at random; return (model, mask)."""
    generator = torch.Generator().manual_seed(1)
    mask = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                mask[name] = torch.rand(parameter.shape, generator=generator) < density
                if levels:
                    parameter.copy_(torch.where(parameter > 0, 0.1, -0.2))
                parameter.masked_fill_(~mask[name], 0.0)
    return model, mask


def lenet(levels=False):
    torch.manual_seed(0)
    layers = [
        nn.Flatten(),
        nn.Linear(784, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    ]
    return pruned(nn.Sequential(*layers), levels=levels)


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def outputs_of(path, inputs):
    session = session_of(str(path))
    names = [one.name for one in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=False)))


def check(tmp_path, model, example, mask, batch=3, encodings=("dense", "compact")):
    """Export, check names, bits (both decoders) and outputs; return the graph of the compact file."""
    inputs = example if isinstance(example, tuple) else (example,)
    torch.manual_seed(2)
    fed = tuple(torch.randn(batch, *x.shape[1:]) if x.is_floating_point() else x[[0] * batch] for x in inputs)
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(copy.deepcopy(model).eval()(*fed))
    found = {}
    for encoding in encodings:
        path = tmp_path / f"{encoding}.onnx"
        export(model, path, example, mask=mask, encoding=encoding)
        check_bits(path, model)
        found[encoding] = outputs_of(path, fed)
        for mine, theirs in zip(found[encoding], expected, strict=True):
            np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)
    for dense, compact in zip(found[encodings[0]], found["compact"], strict=True):
        assert dense.tobytes() == compact.tobytes()
    return read(tmp_path / "compact.onnx")


def check_bits(path, model):
    graph, decoded, state = read(path), decode(path), model.state_dict()
    assert graph.digest_ok
    assert decoded.keys() == graph.tensors.keys()
    for name, array in decoded.items():
        assert array.shape == graph.tensors[name][1] == tuple(state[name].shape)
        assert array.tobytes() == state[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), (
            name
        )
    if graph.chains:
        for name, array in zip(graph.chains, session_of(chains_model(path)).run(None, {}), strict=True):
            assert array.tobytes() == decoded[name].tobytes()


def test_lenet_at_95_percent_meets_its_sizes(tmp_path):
    model, mask = lenet()
    graph = check(tmp_path, model, torch.randn(1, 1, 28, 28), mask)
    assert (tmp_path / "compact.onnx").stat().st_size <= 70_000
    assert set(graph.chains) == set(mask)
    kept, total = sum(int(m.sum()) for m in mask.values()), sum(m.numel() for m in mask.values())
    assert float(graph.metadata["compressor.density"]) == kept / total
    assert list(graph.outputs.values()) == [("batch", 10)]


def test_two_level_lenet_meets_its_size(tmp_path):
    model, mask = lenet(levels=True)
    check(tmp_path, model, torch.randn(1, 1, 28, 28), mask)
    assert (tmp_path / "compact.onnx").stat().st_size <= 16_500


class Convolutions(nn.Module):
    """Grouped, depthwise, transposed, 1-d and 3-d convolutions with batch norm and clipping."""

    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(8, 16, 3, groups=4, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.transposed = nn.ConvTranspose2d(16, 8, 2, stride=2, bias=False)
        self.one = nn.Conv1d(8, 8, 3, bias=False)
        self.one_back = nn.ConvTranspose1d(8, 6, 3, groups=2)
        self.three = nn.Conv3d(1, 2, 3)

    def forward(self, x):
        x = self.transposed(functional.relu6(self.norm(self.depthwise(self.grouped(x)))))
        x = self.one_back(self.one(x.flatten(2)))
        return self.three(x.reshape(x.shape[0], 1, 6, 12, 12)).flatten(1).sum(1, keepdim=True)


class Shared(nn.Module):
    """Tied weights, aliases, and buffers whose names are those of operators, inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(30, 40, bias=False)
        self.decoder = nn.Linear(30, 40, bias=False)
        self.decoder.weight = self.encoder.weight
        self.middle = nn.Linear(40, 30)
        self.alias = self.middle
        self.unregistered = [self.middle]
        self.register_buffer("mean", torch.full((30,), 0.3))
        self.register_buffer("relu", torch.full((30,), 0.5))
        self.register_buffer("output", torch.ones(40))
        self.register_buffer("hidden", torch.ones(1), persistent=False)
        self.x = nn.Parameter(torch.full((30,), 2.0))

    def forward(self, x):
        y = self.unregistered[0](self.encoder(torch.relu(x * self.relu - self.mean)))
        y = self.decoder(y + self.alias.weight.sum(1) * self.x) - x.mean()
        return y * self.output + self.hidden


class Several(nn.Module):
    """Two inputs; outputs that are an input, a weight, a constant, and one twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(40, 50), nn.Linear(3, 50)

    def forward(self, x, y):
        total = self.a(x) + self.b(y)
        return total, x, {"Relu": total, "weight": self.a.weight}, torch.ones(2)


class Buffers(nn.Module):
    """Scalars, integers and a float16 table in the state dict."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("shift", torch.tensor(3))
        self.register_buffer("table16", torch.ones(50, dtype=torch.float16))

    def forward(self, index):
        return self.head(self.table(index)) * self.scale + self.shift + self.table16.float()


NETWORKS = {
    "convolutions": (Convolutions, torch.zeros(1, 8, 6, 6), 9),
    "shared": (Shared, torch.zeros(4, 30), 6),
    "several": (Several, (torch.zeros(1, 40), torch.zeros(1, 3)), 4),
    "buffers": (Buffers, torch.zeros(5, 7, dtype=torch.int64), 4),
    "attention": (lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), torch.zeros(2, 5, 32), 12),
    "one output": (lambda: nn.Linear(6, 1), torch.zeros(1, 6), 2),
    "1000 outputs": (lambda: nn.Linear(60, 1000), torch.zeros(1, 60), 2),
    "no weights": (nn.Identity, torch.zeros(1, 6), 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_names_bits_and_outputs_survive(tmp_path, name):
    build, example, count = NETWORKS[name]
    torch.manual_seed(0)
    model, mask = pruned(build(), 0.1)
    encodings = ("dense", "compact") if name in {"convolutions", "attention"} else ("compact",)
    graph = check(tmp_path, model, example, mask, encodings=encodings)
    assert len(graph.tensors) >= count


def test_a_shared_tensor_is_stored_once_under_its_first_name(tmp_path):
    model, mask = pruned(Shared())
    export(model, tmp_path / "n.onnx", torch.zeros(1, 30), mask=mask)
    graph = read(tmp_path / "n.onnx")
    assert "encoder.weight" in graph.tensors
    assert "decoder.weight" not in graph.tensors
    assert not [name for name in graph.tensors if name.startswith("alias")]


def test_a_mask_may_use_any_name_of_a_shared_tensor(tmp_path):
    model, mask = pruned(Shared(), 0.01)
    mask["decoder.weight"] = mask.pop("encoder.weight")
    export(model, tmp_path / "n.onnx", torch.zeros(1, 30), mask=mask)
    assert "encoder.weight" in read(tmp_path / "n.onnx").chains


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0", "squeezenet1_1"])
def test_torchvision_networks_survive(tmp_path, name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model, mask = pruned(getattr(models, name)(weights=None))
    graph = check(tmp_path, model, torch.zeros(1, 3, 64, 64), mask, batch=2)
    missing = set(model.state_dict()) - set(graph.tensors)
    assert {key.rsplit(".", 1)[1] for key in missing} <= {"num_batches_tracked"}


def test_convolutions_keep_no_bias_that_they_do_not_have(tmp_path):
    export(Convolutions(), tmp_path / "n.onnx", torch.zeros(1, 8, 6, 6))
    nodes = onnx.load(tmp_path / "n.onnx").graph.node
    assert {node.op_type for node in nodes}.isdisjoint({"Expand", "CastLike", "Constant", "Identity"})
    assert sorted(len(node.input) for node in nodes if node.op_type.startswith("Conv")) == [2, 2, 2, 3, 3, 3]


def test_no_annotation_is_left_and_the_model_is_of_one_opset(tmp_path):
    model, mask = lenet()
    export(model, tmp_path / "n.onnx", torch.zeros(1, 784), mask=mask)
    stored = onnx.load(tmp_path / "n.onnx")
    assert [(one.domain, one.version) for one in stored.opset_import] == [("", 18)]
    assert not stored.graph.value_info
    assert not stored.graph.metadata_props
    assert not any(node.metadata_props or node.doc_string or node.name for node in stored.graph.node)
    text = (tmp_path / "n.onnx").read_bytes()
    assert b".py" not in text
    assert str(tmp_path).encode() not in text


def test_without_a_mask_nothing_is_sparse(tmp_path):
    model, _ = lenet()
    export(model, tmp_path / "n.onnx", torch.zeros(1, 784))
    graph = read(tmp_path / "n.onnx")
    assert graph.chains == ()
    assert graph.encoding == "compact"
    assert "compressor.density" not in graph.metadata
    with pytest.raises(FormatError, match="no decode chain"):
        chains_model(tmp_path / "n.onnx")


def test_the_mask_of_the_packed_file_counts(tmp_path):
    packed = pytest.importorskip("compressor.packed")
    model, mask = lenet()
    packed.pack(model, tmp_path / "net.safetensors", mask=mask)
    export(model, tmp_path / "n.onnx", torch.zeros(1, 784), packed=tmp_path / "net.safetensors")
    graph = read(tmp_path / "n.onnx")
    assert set(graph.chains) == set(mask)
    assert len(graph.metadata["compressor.packed_sha256"]) == 64


def test_pruned_negative_zeros_become_zeros_and_kept_ones_stay(tmp_path):
    model, mask = pruned(nn.Linear(784, 30))
    with torch.no_grad():
        model.weight[~mask["weight"]] = -0.0
        mask["weight"][0, 0] = True
        model.weight[0, 0] = -0.0
    for encoding in ("dense", "compact"):
        export(model, tmp_path / "n.onnx", torch.zeros(1, 784), mask=mask, encoding=encoding)
        bits = decode(tmp_path / "n.onnx")["weight"].view(np.uint32)
        assert bits[0, 0] == 0x80000000
        assert not bits[~mask["weight"].numpy()].any()


def test_float16_networks_become_compact_and_bfloat16_stays_dense(tmp_path):
    for dtype, chains in ((torch.float16, 1), (torch.bfloat16, 0)):
        model, mask = pruned(nn.Linear(200, 100).to(dtype))
        export(model, tmp_path / "n.onnx", torch.zeros(1, 200, dtype=dtype), mask=mask)
        assert len(read(tmp_path / "n.onnx").chains) == chains
        check_bits(tmp_path / "n.onnx", model)


def test_the_bytes_are_the_same_in_another_process(tmp_path):
    script = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); from test_onnx import lenet, export;"
        "model, mask = lenet(); export(model, sys.argv[2], torch.zeros(1, 1, 28, 28), mask=mask)"
    )
    arguments = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "a.onnx")]
    environment = {"PYTHONHASHSEED": "7"}
    done = subprocess.run(
        arguments, env=environment, cwd=tmp_path, capture_output=True, check=True, text=True
    )
    assert done.stdout + done.stderr == ""
    model, mask = lenet()
    export(model, tmp_path / "b.onnx", torch.ones(7, 1, 28, 28), mask=mask)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_module_and_the_global_generator_stay_as_they_are(tmp_path, capfd):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            return self.drop(self.norm(self.layer(x)))

    model = Counting().train()
    model.drop.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    export(model, tmp_path / "n.onnx", torch.randn(2, 6, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert capfd.readouterr() == ("", "")


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (Branching(), torch.zeros(1, 3), "Branching: torch.export cannot trace it"),
        (nn.Linear(4, 2), torch.zeros(1, 3), r"Linear: does not take an example of shape \(2, 3\)"),
        (nn.Linear(4, 2), torch.zeros(0, 4), "no sample"),
        (nn.Linear(4, 2), torch.tensor(1.0), "no sample"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_one_sentence(tmp_path, model, example, message):
    with pytest.raises(InputError, match=message) as caught:
        export(model, tmp_path / "n.onnx", example)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_masks_that_do_not_fit_are_refused(tmp_path):
    model, example = nn.Linear(4, 2), torch.zeros(1, 4)
    ones = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(InputError, match='did you mean "weight"'):
        export(model, tmp_path / "n.onnx", example, mask={"weigth": ones})
    with pytest.raises(InputError, match=r"shape \(4, 2\) does not fit the weight's \(2, 4\)"):
        export(model, tmp_path / "n.onnx", example, mask={"weight": ones.T})
    with pytest.raises(InputError, match="prunes and that is not zero"):
        export(model, tmp_path / "n.onnx", example, mask={"weight": ~ones})
    with pytest.raises(InputError, match='did you mean "compact"'):
        export(model, tmp_path / "n.onnx", example, encoding="compct")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path, value):
    model = nn.Sequential(nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias[1] = value
    with pytest.raises(InputError, match=r'"0\.bias" holds NaN or infinity'):
        export(model, tmp_path / "n.onnx", torch.zeros(1, 4))


def test_a_path_that_cannot_be_written_is_a_host_error(tmp_path):
    with pytest.raises(HostError, match="cannot be written"):
        export(nn.Linear(4, 2), tmp_path / "missing" / "n.onnx", torch.zeros(1, 4))
