"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels, embedded in that package.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, its test part.
"""

from pathlib import Path
from typing import Final

import torch

from compressor.data.images import Source
from compressor.data.memory import inputs, labels

TEST_SHARE: Final = 0.2


def load(_data_dir: Path) -> Source:
    """Return 1,438 training and 359 test images, 1x8x8, in 0..1.

    The split is the same for every seed, so that no run is tested on what another one was trained on.
    """
    # Imported here: scikit-learn takes a second and nothing else needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.as_tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    y = labels(bunch.target, "digits", len(x), 10)
    test = _stratified(y)
    return Source(inputs(x[~test], "digits"), y[~test], inputs(x[test], "digits"), y[test], classes=10)


def _stratified(y: torch.Tensor) -> torch.Tensor:
    """Return True at the test images: the same share of every class, drawn by a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    test = torch.zeros(len(y), dtype=torch.bool)
    for label in range(10):
        places = (y == label).nonzero()[:, 0]
        order = torch.randperm(len(places), generator=generator)
        test[places[order[: round(TEST_SHARE * len(places))]]] = True
    return test
