"""What the verification tests share: networks, pruned, packed and exported as a user would; sealed sabotage."""

from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn

from compressor.packed import pack
from exporters import verify
from exporters.graph import DIGEST, digest_entry
from exporters.onnx import export


@dataclass(frozen=True)
class Shipped:
    model: nn.Module
    packed: Path
    onnx: Path
    data: tuple


def pruned(model, density=0.1):
    """Prune the tensors of two or more dimensions at random, the same share of each; return the mask."""
    generator = torch.Generator().manual_seed(1)
    mask = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                mask[name] = torch.rand(parameter.shape, generator=generator) < density
                parameter.masked_fill_(~mask[name], 0.0)
    return mask


def shipped(folder, model, x, y=None, *, density=0.1, encoding="compact", kind=torch.float32):
    model.eval()
    mask = pruned(model, density)
    packed, path = folder / "net.safetensors", folder / "net.onnx"
    pack(model, packed, mask=mask)
    export(model, path, x, mask=mask, encoding=encoding, packed=packed)
    first = x[0] if isinstance(x, tuple) else x
    labels = torch.arange(len(first)) % 10 if y is None else y
    return Shipped(model, packed, path, (x, labels))


def mlp(outputs=10):
    """Two inner layers of the same shape, so that they can be swapped."""
    torch.manual_seed(0)
    layers = [nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, outputs)]
    return nn.Sequential(*layers)


def resealed(path, change):
    """Change the model inside an ONNX file of ours and close it with the digest that then is right."""
    model = onnx.load_model(str(path))
    change(model)
    kept = [entry for entry in model.metadata_props if entry.key != DIGEST]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    body = model.SerializeToString()
    path.write_bytes(body + digest_entry(body))


def initialiser(model, name):
    return next(i for i in model.graph.initializer if i.name == name)


def failed(verdict):
    """Return the checks that failed and all their sentences."""
    return {check.check for check in verdict.checks if not check.passed}, " | ".join(verdict.failures())


def judged(net):
    """Verify with model and data; return what failed."""
    return failed(verify(net.packed, net.onnx, model=net.model, data=net.data))
