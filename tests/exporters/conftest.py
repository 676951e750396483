"""Two faithful files, compact and dense, exported once; each test gets a copy that it may damage."""

import shutil

import pytest
import torch
from shipping import Shipped, mlp, shipped


@pytest.fixture(scope="session")
def originals(tmp_path_factory) -> dict[str, Shipped]:
    x = torch.randn(64, 40, generator=torch.Generator().manual_seed(2))
    return {
        encoding: shipped(tmp_path_factory.mktemp(encoding), mlp(), x, encoding=encoding)
        for encoding in ("compact", "dense")
    }


@pytest.fixture
def net(originals, tmp_path, request) -> Shipped:
    """A copy that may be damaged; dense unless the test asks otherwise."""
    original = originals[getattr(request, "param", "dense")]
    packed, path = tmp_path / "net.safetensors", tmp_path / "net.onnx"
    shutil.copy(original.packed, packed)
    shutil.copy(original.onnx, path)
    return Shipped(original.model, packed, path, original.data)
