"""The toy networks of the sheets' worked numbers: chains of linear layers without biases, rows = outputs."""

import torch
from torch import Tensor, nn

Matrix = list[list[float]]


def chain(*layers: Matrix) -> nn.Sequential:
    """A network of these weights with ReLU between them; keys "0.weight", "2.weight", ..."""
    modules: list[nn.Module] = []
    for weights in layers:
        layer = nn.Linear(len(weights[0]), len(weights), bias=False)
        layer.weight.data = torch.tensor(weights)
        modules += [layer, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def places(mask: dict[str, Tensor] | None) -> list[tuple[int, int, int]]:
    """The kept places as (layer from 1, row, column), as the sheets write W1[0,0]."""
    assert mask is not None
    return [(n, *place) for n, kept in enumerate(mask.values(), 1) for place in kept.nonzero().tolist()]


A = ([[1.0, -2.0], [0.5, 0.0], [-3.0, 4.0]], [[1.0, 0.0, -2.0], [-1.0, 2.0, 0.5]])
C = ([[0.1, 0.2], [-0.3, 0.15]], [[1.0, -2.0], [3.0, 4.0]])
F = ([[-0.1, -0.4], [0.7, 0.7], [0.5, -0.4]], [[-0.8, 0.1, 0.4], [-0.6, 0.4, -0.8]])
F_DATA = (torch.tensor([[1.0, 2], [2, -1], [-1, 1]]), torch.tensor([0, 1, 1]))
