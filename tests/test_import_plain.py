"""`compressor pack` of plain safetensors: tensor by tensor, sharded too, as the way through torch would have it."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import compressor
from compressor.cli import app
from compressor.packed import unpack_mask
from compressor.weights import Mask, find_mask


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def network() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(30, 40) * (torch.rand(30, 40) < 0.2)
    weight[0, 0] = float("nan")
    return {
        "fc.weight": weight,  # has -0.0 where a negative number was multiplied by 0
        "fc.bias": torch.tensor([0.0, -0.0, 1.0]),
        "half.weight": weight.bfloat16(),
        "eight.weight": weight.to(torch.float8_e4m3fnuz),
        "count": torch.zeros(2, 2, dtype=torch.int64),
        "scale": torch.tensor(2.0),
    }


def test_zeros_are_pruned_as_through_torch(tmp_path: Path) -> None:
    state = network()
    save_file({f"_orig_mod.module.{name}": one for name, one in state.items()}, tmp_path / "net")
    result = call("pack", tmp_path / "net", "--mask-from-zeros", "--out", tmp_path / "one")
    assert result.exit_code == 0, result.stderr
    torch.save(state, tmp_path / "net.pt")
    assert call("pack", tmp_path / "net.pt", "--mask-from-zeros", "--out", tmp_path / "two").exit_code == 0
    one, two = compressor.unpack(tmp_path / "one"), compressor.unpack(tmp_path / "two")
    assert set(one) == set(two) == set(state)
    assert all(
        torch.equal(one[n].reshape(-1).view(torch.uint8), two[n].reshape(-1).view(torch.uint8)) for n in state
    )
    assert Mask(unpack_mask(tmp_path / "one")) == find_mask(state) == Mask(unpack_mask(tmp_path / "two"))


def test_a_saved_mask_rounding_and_a_base_work_as_through_torch(tmp_path: Path) -> None:
    state = {"w": torch.randn(8, 9), "b": torch.zeros(3)}
    mask = Mask({"w": torch.rand(8, 9) < 0.5})
    save_file({**state, "w": state["w"] * mask["w"]}, tmp_path / "net")  # -0.0 where it is pruned
    mask.save(tmp_path / "mask")
    save_file(state, tmp_path / "dense")
    save_file({"w": torch.ones(8, 9, dtype=torch.bool)}, tmp_path / "all")
    assert (
        call("pack", tmp_path / "dense", "--mask", tmp_path / "all", "--out", tmp_path / "base").exit_code
        == 0
    )
    words = ("pack", tmp_path / "net", "--mask", tmp_path / "mask", "--out")
    assert call(*words, tmp_path / "half", "--values", "float16").exit_code == 0
    half = compressor.unpack(tmp_path / "half")["w"]
    assert torch.equal(half, (state["w"] * mask["w"]).half().float() + 0.0)
    assert call(*words, tmp_path / "task", "--base", tmp_path / "base").exit_code == 0
    task = compressor.packed.unpack(tmp_path / "task", base=tmp_path / "base")["w"]
    assert torch.equal(task, torch.where(mask["w"], state["w"], 0.0))
    assert not torch.signbit(task[~mask["w"]]).any()


def test_shards_are_packed_from_their_index_or_folder(tmp_path: Path) -> None:
    state = network()
    places = {name: f"{at % 2}.safetensors" for at, name in enumerate(state)}
    for file in ("0.safetensors", "1.safetensors"):
        save_file({name: one for name, one in state.items() if places[name] == file}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    for path in (index, tmp_path):
        assert call("pack", path, "--mask-from-zeros", "--out", tmp_path / "packed").exit_code == 0
        assert set(compressor.unpack(tmp_path / "packed")) == set(state)
    refused = call("pack", index, "--mask-from-zeros", "--out", tmp_path / "1.safetensors")
    assert refused.exit_code == 3
    assert "is the file that is read" in refused.stderr


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ({"v": torch.ones(2, 2, dtype=torch.bool)}, 'unknown tensor in the mask "v"'),
        ({"w": torch.ones(4, dtype=torch.bool)}, 'the mask of "w" has shape [4], the tensor [2, 2]'),
        ({"w": torch.ones(2, 2)}, 'mask "w": not a bool tensor; True means kept'),
        ({"w": torch.eye(2) > 0}, "2 weights that the mask prunes are not zero"),
        (None, "is not a safetensors file"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(
    tmp_path: Path, mask: dict[str, torch.Tensor] | None, reason: str
) -> None:
    save_file({"w": torch.ones(2, 2)}, tmp_path / "net")
    (tmp_path / "mask").write_bytes(b"something else")
    if mask is not None:
        save_file(mask, tmp_path / "mask")
    refused = call("pack", tmp_path / "net", "--mask", tmp_path / "mask", "--out", tmp_path / "out")
    assert refused.exit_code == 3
    assert reason in refused.stderr
    assert sorted(os.listdir(tmp_path)) == ["mask", "net"]
