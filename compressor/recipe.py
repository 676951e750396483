"""The recipe: one frozen dataclass tree that says all of a run (TOML in and out: compressor.recipes)."""

from dataclasses import dataclass, field


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
    """The dense stage: the reference, and the start of methods that prune trained weights."""

    enabled: bool = False
    train: Train = field(default_factory=Train)


@dataclass(frozen=True, slots=True)
class Prune:
    """The prune stage. weights: given, start, dense or auto. end: where ASNI's curve ends, 1 = at the end."""

    method: str = "asni"
    density: float = 0.05
    scope: str = "global"
    exclude: tuple[str, ...] = ()
    weights: str = "auto"
    end: float = 0.75
    train: Train = field(default_factory=Train)


@dataclass(frozen=True, slots=True)
class Tune:
    """The tune stage. start: trained, init, rewind or levels. mask (with tied): move or fixed."""

    enabled: bool = True
    start: str = "trained"
    tied: bool = False
    mask: str = "move"
    rewind_to: float = 0.1
    train: Train = field(default_factory=Train)


@dataclass(frozen=True, slots=True)
class Pack:
    """The pack stage. values: empty (lossless), float16 or bfloat16."""

    format: str = "auto"
    values: str = ""


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
