"""The recipe: one frozen dataclass tree that says all of a run (TOML in and out: compressor.recipes)."""

from dataclasses import dataclass, field
from math import ceil, floor, log, log1p


@dataclass(frozen=True, slots=True)
class Train:
    """How one training runs; every training stage may override any of these keys.

    warmup: epochs of linear warm-up. milestones: epochs after which the multistep rate is times gamma.
    cosine_scale: the half period of the cosine in units of the training; above 1 the rate ends above 0
    (papers/asni.md 4.1, "sc"). threads 0: what torch would take, recorded.
    """

    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    batch: int = 128
    epochs: int = 20
    schedule: str = "cosine"
    cosine_scale: float = 1.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: int = 0
    label_smoothing: float = 0.0
    augment: str = "auto"
    amp: bool = False
    device: str = "auto"
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """The network: a name of the menu, `torchvision:NAME` or `package.module:factory`. weights: a file."""

    name: str
    weights: str = ""


@dataclass(frozen=True, slots=True)
class DataSet:
    """The data. validation: share of the training split; mean, std: per channel (empty: measured)."""

    name: str
    validation: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Dense:
    """The dense stage: the reference, and the start of methods that prune trained weights.

    control: train it on without pruning for as many epochs as the pruned network gets.
    """

    enabled: bool = False
    control: bool = False
    train: Train = field(default_factory=Train)


@dataclass(frozen=True, slots=True)
class Prune:
    """The prune stage. weights: given, start, dense or auto. end: where ASNI's curve ends, 1 = at the end.
    scope: global, layer, erk, or auto, which is the method's own.

    rounds: prune and tune so often, densities density^(i/rounds), absent: once; per_round: or as often as it takes to
    remove this share of what remains each time. max_drop: the validation accuracy that a round may lose against dense.
    """

    method: str = "asni"
    density: float = 0.05
    scope: str = "auto"
    exclude: tuple[str, ...] = ()
    weights: str = "auto"
    end: float = 0.75
    rounds: int | None = None
    per_round: float | None = None
    max_drop: float | None = None
    train: Train = field(default_factory=Train)


@dataclass(frozen=True, slots=True)
class Tune:
    """The tune stage. start: trained, init, rewind or levels. mask (with tied): move or fixed.

    replay_from: train as the dense stage did from this share of its epochs on; `train` is then that of [dense].
    rewind_to: the share of the dense epochs whose weights `rewind` starts from; absent: replay_from, else 0.1.
    """

    enabled: bool = True
    start: str = "trained"
    tied: bool = False
    mask: str = "move"
    rewind_to: float | None = None
    replay_from: float | None = None
    train: Train = field(default_factory=Train)


@dataclass(frozen=True, slots=True)
class Pack:
    """The pack stage. values: empty (lossless), float16, bfloat16 or int8 (masked weights, a scale per output channel).

    biases: float16 or bfloat16 for all that has no mask. fold_dead, order_units: transform the network before it is
    packed (compressor.transforms).
    """

    format: str = "auto"
    values: str = ""
    biases: str = ""
    fold_dead: bool = False
    order_units: bool = False


@dataclass(frozen=True, slots=True)
class Export:
    """The export stage: both encodings are always written; this one is verified and shipped."""

    enabled: bool = True
    encoding: str = "compact"


@dataclass(frozen=True, slots=True)
class Verify:
    """The verify stage. samples: inputs for the float64 reference, or "all". runtimes: empty for all."""

    enabled: bool = True
    samples: int | str = 256
    runtimes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run. Every training stage holds its own resolved Train: the [train] section with its overrides.

    folder: where the user's modules are looked for and relative paths start (the recipe's own folder).
    """

    model: Model
    data: DataSet
    seed: int = 0
    folder: str = ""
    train: Train = field(default_factory=Train)
    dense: Dense = field(default_factory=Dense)
    prune: Prune = field(default_factory=Prune)
    tune: Tune = field(default_factory=Tune)
    pack: Pack = field(default_factory=Pack)
    export: Export = field(default_factory=Export)
    verify: Verify = field(default_factory=Verify)


def epoch_at(share: float, epochs: int) -> int:
    """Return the epoch that a share of a training stands for, half-up."""
    return floor(share * epochs + 0.5 + 1e-9)


def rounds_of(prune: Prune) -> int:
    """Return how often a recipe prunes and tunes. Source: papers/lr-rewinding.md, section 7, number 1."""
    if prune.per_round is None:
        return 1 if prune.rounds is None else prune.rounds
    # ln(0.8^3) / ln(0.8) may come out just above 3.
    return max(1, ceil(log(prune.density) / log1p(-prune.per_round) - 1e-9))


def weights_of(recipe: Recipe) -> str:
    """Return which weights pruning starts from: given, dense or start."""
    if recipe.prune.weights != "auto":
        return recipe.prune.weights
    if recipe.model.weights:
        return "given"
    return "dense" if recipe.dense.enabled and recipe.prune.method == "magnitude" else "start"


def rewinds_to(recipe: Recipe) -> int | None:
    """Return the dense epoch whose weights tuning starts from, None if it does not rewind."""
    tune = recipe.tune
    if not tune.enabled or tune.start != "rewind":
        return None
    share = next(share for share in (tune.rewind_to, tune.replay_from, 0.1) if share is not None)
    return epoch_at(share, recipe.dense.train.epochs)


def replays_from(recipe: Recipe) -> int:
    """Return the epoch of its training settings that tuning begins with, 0 if it replays nothing."""
    share = recipe.tune.replay_from
    return 0 if share is None else epoch_at(share, recipe.dense.train.epochs)
