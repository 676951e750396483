"""Torch's own: CSR and COO tensors, and the masks of torch.nn.utils.prune, saved by torch and read back bit for bit."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils import prune

import compressor
from compressor.errors import FormatError, InputError
from compressor.foreign import import_file
from compressor.packed import unpack_mask
from compressor.unpacked import unpack_file

CSR = pytest.mark.filterwarnings("ignore:.*(CSR|sparse).*:UserWarning")  # torch says that it is in beta


def pruned_network() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(9, 5), torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    prune.random_unstructured(net[0], "weight", 0.5)
    prune.random_unstructured(net[0], "bias", 0.5)
    prune.l1_unstructured(net[1], "weight", 0.7)
    with torch.no_grad():
        net[0].weight_orig[0] = 0.0  # zeros that the mask may keep
    want = {name.removesuffix("_orig"): one for name, one in net.state_dict().items() if "_mask" not in name}
    for name in ("0.weight", "0.bias", "1.weight"):
        mask = net.state_dict()[f"{name}_mask"]
        want[name] = torch.where(mask != 0, want[name], 0.0)
    return net, want


@pytest.mark.parametrize("how", ["safetensors", "checkpoint"])
def test_the_masks_of_torch_s_prune_are_joined_with_their_weights(tmp_path: Path, how: str) -> None:
    net, want = pruned_network()
    state = {f"module.{name}": one for name, one in net.state_dict().items()}
    if how == "safetensors":
        save_file(state, tmp_path / "net")
    else:
        torch.save({"model_state_dict": state, "epoch": 3}, tmp_path / "net")
    import_file(tmp_path / "net", tmp_path / "packed")
    found = compressor.unpack(tmp_path / "packed")
    assert set(found) == set(want)
    assert all(torch.equal(found[name], one) for name, one in want.items())
    assert not any((torch.signbit(one) & (one == 0)).any() for one in found.values())
    masks = unpack_mask(tmp_path / "packed")
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        name: int(net.state_dict()[f"{name}_mask"].sum()) for name in ("0.weight", "0.bias", "1.weight")
    }
    torch.testing.assert_close(found["0.weight"], net[0].weight_orig * net[0].weight_mask, rtol=0, atol=0)


def pair(**change: torch.Tensor) -> dict[str, torch.Tensor]:
    whole = {"w_orig": torch.tensor([1.0, 2.0]), "w_mask": torch.tensor([1.0, 0.0])}
    return whole | change


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (pair(w_mask=torch.tensor([1.0, 0.5])), '"w_mask" holds other numbers than 0 and 1'),
        (pair(w_mask=torch.tensor([1.0, float("nan")])), "holds other numbers"),
        (pair(w_mask=torch.tensor([[1.0, 0.0]])), r'"w_mask" has shape \[1, 2\], "w_orig" \[2\]'),
        (pair(w=torch.zeros(2)), 'has "w" twice'),
        (pair(w_orig=torch.tensor([1.0, float("nan")])), "holds NaN or infinity where its mask prunes"),
        (pair(w_orig=torch.tensor([1.0, -float("inf")])), "holds NaN or infinity where its mask prunes"),
        (pair(w_mask=torch.tensor([1, 0]).to(torch.complex64)), "its mask C64; that is no mask"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused(
    tmp_path: Path, state: dict[str, torch.Tensor], reason: str
) -> None:
    save_file(state, tmp_path / "net")
    with pytest.raises(InputError, match=reason):
        import_file(tmp_path / "net", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_orig_or_mask_alone_is_a_tensor_like_any_other(tmp_path: Path) -> None:
    mask = torch.tensor(
        [True, False]
    )  # a bool mask, as custom_from_mask takes one; spectral_norm has an _orig too
    state = {**pair(w_mask=mask), "v_orig": torch.ones(2), "attn_mask": torch.ones(3)}
    save_file(state, tmp_path / "net")
    import_file(tmp_path / "net", tmp_path / "packed")
    found = compressor.unpack(tmp_path / "packed")
    assert set(found) == {"w", "v_orig", "attn_mask"}
    assert found["w"].tolist() == [1, 0]


@CSR
def test_sparse_tensors_of_torch_keep_their_values_and_places(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(30, 40) * (torch.rand(30, 40) < 0.2)
    weight[0, 0], weight[0, 1] = float("nan"), float("inf")
    zero = torch.sparse_csr_tensor([0, 2, 3], [0, 2, 1], torch.tensor([0.0, -0.0, 1.0]), (2, 3))
    state = {
        "csr": weight.to_sparse_csr(),
        "coo": weight.to_sparse(),
        "dense": weight,
        "bf16": weight[1:].to(torch.bfloat16).to_sparse_csr(),
        "f64": weight[1:].double().to_sparse(),
        "deep": torch.randn(2, 3, 4).to_sparse(),
        "twice": torch.sparse_coo_tensor([[1, 0, 1], [1, 0, 1]], [1.0, 2.0, 4.0], (2, 2)),
        "zero": zero,
        "none": torch.zeros(3, 4).to_sparse_csr(),
    }
    torch.save({"state_dict": {f"module.{name}": one for name, one in state.items()}}, tmp_path / "net.pt")
    import_file(tmp_path / "net.pt", tmp_path / "packed")
    found, masks = compressor.unpack(tmp_path / "packed"), unpack_mask(tmp_path / "packed")
    assert list(found) == list(state)
    for name, one in state.items():
        dense = one if one.layout is torch.strided else one.to_dense()
        assert (
            torch.equal(found[name].view(torch.uint8), dense.contiguous().view(torch.uint8)) or name == "zero"
        )
    assert set(masks) == set(state) - {"dense"}
    assert masks["zero"].tolist() == [[True, False, True], [False, True, False]]
    assert torch.signbit(found["zero"][0, 2])


@CSR
def test_the_columns_of_torch_csr_are_stored_once(tmp_path: Path) -> None:
    weight = torch.where(torch.rand(500, 400) < 0.1, 1.0, 0.0)
    compressor.pack({"w": weight}, tmp_path / "packed", mask=compressor.find_mask({"w": weight}))
    unpack_file(tmp_path / "packed", "torch-csr", tmp_path / "csr")
    kept = int(weight.sum())
    assert 8 * kept < (tmp_path / "csr").stat().st_size < 8 * kept + 4 * 501 + 3000


def wrapped(csr: torch.Tensor, shape: object) -> dict[str, object]:
    return {"v": torch.eye(2).to_sparse_csr(), "w": {"csr": csr, "shape": shape}}


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch hacked",)


@CSR
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: {"w": torch.zeros(2, 2)}, "holds no sparse tensor; compressor pack takes it"),
        (lambda: {"w": Evil()}, "wants to run"),
        (lambda: {"w": torch.zeros(2, 2).to_sparse_csc()}, "is sparse_csc of torch.float32"),
        (lambda: {"w": torch.zeros(2, 2).to_sparse_bsr((1, 1))}, "is sparse_bsr"),
        (lambda: {"w": torch.ones(2, 2, 2).to_sparse(1)}, "dense or batch dimensions"),
        (lambda: {"w": torch.ones(2, 2, 2).to_sparse_csr()}, "dense or batch dimensions"),
        (lambda: {0: torch.zeros(2, 2).to_sparse()}, "names are text"),
        (
            lambda: {"w": torch.zeros(1 << 20, 1 << 20, dtype=torch.int8, layout=torch.sparse_coo)},
            "claims more memory",
        ),
        (lambda: {"v": torch.eye(2).to_sparse(), "w": torch.zeros(1).expand(1 << 36)}, "claims more memory"),
        (lambda: {"w": {"csr": torch.eye(2).to_sparse_csr(), "shape": [3, 2]}}, "which its CSR does not fit"),
        (
            lambda: {"w": {"csr": torch.eye(2).to_sparse_csr(), "shape": [-2, -2]}},
            "which its CSR does not fit",
        ),
        (lambda: {"w": {"csr": torch.eye(2).to_sparse_csr(), "shape": "22"}}, "holds no state dict"),
        (lambda: wrapped(torch.zeros(2, 2), ["x"]), r"""which its CSR does not fit \(strided \[2, 2\]\)"""),
        (lambda: wrapped(torch.zeros(2, 2), [2.5, 2]), "which its CSR does not fit"),
        (lambda: wrapped(torch.ones(2, 2), [-4]), "which its CSR does not fit"),
        (lambda: wrapped(torch.ones(2, 2), [5]), "which its CSR does not fit"),
        (lambda: wrapped(torch.ones(2, 2), [2, 2]), "which its CSR does not fit"),
        (lambda: wrapped(torch.eye(2).to_sparse(), [2, 2]), "which its CSR does not fit"),
        (lambda: wrapped(torch.eye(2).to_sparse_csr(), ["x"]), "which its CSR does not fit"),
        (lambda: wrapped(torch.eye(2).to_sparse_csr(), (True, 2)), "which its CSR does not fit"),
        (lambda: wrapped(torch.zeros(2, 0).to_sparse_csr(), [2, 0, 1 << 70]), "which its CSR does not fit"),
        (lambda: wrapped(torch.zeros(2, 0).to_sparse_csr(), [2, 1 << 47, 1 << 47, 0]), "CSR does not fit"),
        (lambda: wrapped(torch.eye(2).to_sparse_csr(), [2, 2] + [1] * 40), "which its CSR does not fit"),
        (lambda: [torch.eye(2).to_sparse()], "holds no state dict"),
        (
            lambda: torch.sparse_csr_tensor([0, 2], [0, 7], torch.ones(2), (1, 2), check_invariants=False),
            "damaged",
        ),
        (
            lambda: torch.sparse_coo_tensor([[9]], [1.0], (2,), check_invariants=False, is_coalesced=True),
            "damaged",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_packed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], object], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(make(), "net.pt")
    with pytest.raises((InputError, FormatError), match=reason):
        import_file("net.pt", "packed")
    assert os.listdir() == ["net.pt"]


@CSR
def test_a_deflated_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "net.pt") as old, zipfile.ZipFile(tmp_path / "bomb.pt", "w", 8) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(FormatError, match="holds compressed records"):
        import_file(tmp_path / "bomb.pt", tmp_path / "packed")


def test_shared_tensors_stay_shared_and_a_pruned_one_stands_alone(tmp_path: Path) -> None:
    one, two = torch.ones(2, 3), torch.ones(4)
    state = {"a": one, "b": one, "c_orig": two, "c_mask": torch.tensor([1.0, 0, 1, 0]), "d": two}
    torch.save(state, tmp_path / "net.pt")
    sizes = import_file(tmp_path / "net.pt", tmp_path / "packed")
    assert {one.name: one.role for one in sizes.tensors} == {
        "a": "dense", "b": "alias", "c": "sparse", "d": "dense",
    }  # fmt: skip
    found = compressor.unpack(tmp_path / "packed")
    assert (found["c"].tolist(), found["d"].tolist()) == ([1, 0, 1, 0], [1, 1, 1, 1])


@CSR
def test_one_csr_tensor_both_bare_and_wrapped_has_each_its_own_shape(tmp_path: Path) -> None:
    csr = torch.eye(4).to_sparse_csr()
    torch.save(
        {"a": csr, "b": {"csr": csr, "shape": [4, 2, 2]}, "c": {"csr": csr, "shape": (4, 4, 1)}},
        tmp_path / "net.pt",
    )
    import_file(tmp_path / "net.pt", tmp_path / "packed")
    found = compressor.unpack(tmp_path / "packed")
    assert {name: list(one.shape) for name, one in found.items()} == {
        "a": [4, 4], "b": [4, 2, 2], "c": [4, 4, 1],
    }  # fmt: skip
    assert all(torch.equal(one.reshape(4, 4), torch.eye(4)) for one in found.values())
