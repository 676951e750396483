"""What every test shares: one torch thread, a fixed hypothesis profile, and the folder of real data."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("fixed")
torch.set_num_threads(1)

DATA = Path(os.environ.get("COMPRESSOR_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


@pytest.fixture
def data_dir() -> Path:
    if not DATA.is_dir():
        pytest.skip(
            "no real data: set COMPRESSOR_DATA to a folder that holds MNIST/raw and the CIFAR-10 parts"
        )
    return DATA.resolve()
