"""Several methods on one network, side by side: what each keeps per layer, and how much they agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from compressor.batches import collected
from compressor.errors import CollapseError, InputError
from compressor.files import write_bytes
from compressor.methods import prune
from compressor.weights import Mask

PLOTS: Final = (".svg", ".png", ".pdf")


@dataclass(frozen=True, slots=True)
class Comparison:
    """masks: by method; refused: why a method has none."""

    density: float
    masks: Mapping[str, Mask]
    refused: Mapping[str, str]

    def overlaps(self) -> dict[str, dict[str, float]]:
        """Return, for each pair of methods, the weights that both keep / the weights that either keeps."""
        return {a: {b: overlap(self.masks[a], self.masks[b]) for b in self.masks} for a in self.masks}


def overlap(one: Mask, other: Mask) -> float:
    """Return intersection over union of what two masks of the same layers keep; 1 for two empty ones."""
    both = either = 0
    for name in one:
        mine, theirs = one[name], other[name]
        both += int((mine & theirs).sum())
        either += int((mine | theirs).sum())
    return both / either if either else 1.0


def compare(
    model: nn.Module,
    methods: Sequence[str],
    *,
    density: float,
    data: Any,
    scope: str = "global",
    exclude: Sequence[str] = (),
    seed: int = 0,
) -> Comparison:
    """Prune one network by several scoring methods; what collapses is told beside the others.

    data: as for `compressor.prune`. Raises InputError for a method given twice, and what it raises if it does for all.
    """
    twice = [name for name in methods if list(methods).count(name) > 1]
    if twice or not methods:
        raise InputError(f"compare: {f'{twice[0]} is named twice' if twice else 'no method is named'}")
    data = collected(data, whole=True)
    masks, refused = dict[str, Mask](), dict[str, str]()
    for name in methods:
        try:
            masks[name] = prune(
                model,
                name,
                density=density,
                data=data,
                scope=scope,
                exclude=exclude,
                generator=torch.Generator().manual_seed(seed),
            )
        except CollapseError as error:
            refused[name] = str(error)
    if not masks:
        raise CollapseError("; ".join(refused.values()))
    return Comparison(density, masks, refused)


def plot(found: Comparison, path: Path) -> None:
    """Draw densities per layer and overlaps into an .svg, .png or .pdf, the same bytes every time.

    Raises InputError for another ending, HostError where it cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if path.suffix not in PLOTS:
        raise InputError(f"{path}: a plot ends in {', '.join(PLOTS)}")
    layers = list(next(iter(found.masks.values())))
    figure = Figure(figsize=(7 + 0.16 * len(layers), 4.2), layout="constrained")
    bars, heat = figure.subplots(1, 2, width_ratios=[2, 1])
    for name, mask in found.masks.items():
        densities = [kept / total for kept, total in mask.per_layer().values()]
        bars.plot(range(len(layers)), densities, marker="o", markersize=3, linewidth=1, label=name)
    bars.set_yscale("log")
    bars.set_xticks(range(len(layers)), layers, rotation=90, fontsize=6)
    bars.set_ylabel("density of the layer")
    bars.set_title(f"density {found.density:g}", fontsize=9)
    bars.legend(fontsize=7)
    overlaps = found.overlaps()
    names = list(overlaps)
    table = [list(row.values()) for row in overlaps.values()]
    heat.imshow(table, vmin=0, vmax=1, cmap="Blues")
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            color = "white" if value > 0.6 else "black"
            heat.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    heat.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    heat.set_yticks(range(len(names)), names, fontsize=7)
    heat.set_title("kept by both / by either", fontsize=9)
    drawn = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "compressor"}):
        figure.savefig(drawn, format=path.suffix[1:], dpi=150, metadata=_UNDATED[path.suffix])
    write_bytes(path, drawn.getvalue())


_UNDATED: Final[Mapping[str, Mapping[str, None]]] = {
    ".svg": {"Date": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
