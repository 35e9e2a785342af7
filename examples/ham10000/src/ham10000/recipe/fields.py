"""What a recipe says: one frozen dataclass for each part of a training run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = [
    "DataRecipe",
    "LoggingRecipe",
    "LossRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Recipe",
    "ScheduleRecipe",
    "TrainingRecipe",
]


@dataclass(frozen=True)
class DataRecipe:
    """Which images train, validate and test, and how a batch of them is made."""

    root: Path | None = None
    """The data set's folder; what HAM10000_DIR names unless given."""
    cache: Path | None = None
    """The folder of decoded images; made beside the run where it isn't there."""
    check_cache: bool = True
    """Compare the cache with its checksums at the start: 1.2 s for HAM10000 at 224 pixels."""
    size: int = 224
    """Images become so many pixels wide and high."""
    split: Path | None = None
    """A split file; otherwise one is made by `protocol`."""
    protocol: Literal["honest", "paper", "kfold"] = "honest"
    """With a validation set of its own, the authors' rule, or in folds."""
    split_seed: int | None = None
    """Of the split; the recipe's seed unless given."""
    fold: int | None = None
    """Which fold tests, with kfold."""
    pairs: Path | None = None
    """Near-duplicates as `verify --pairs-out` wrote them; looked for unless given."""
    workers: int = 2
    """How many processes make batches; 0 for none beside the one that trains."""
    balance: Literal["none", "sqrt", "class"] = "none"
    """How often a class is drawn: as it is, by the square root of its count, equally."""
    epoch_samples: int | None = None
    """How many images an epoch draws; as many as train unless given."""
    augment: str = "authors"
    """A preset of `ham10000.data.Augment`."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """Whether two images are made one."""
    metadata: bool = False
    """Give the model age, sex and site of the lesion beside the image."""


@dataclass(frozen=True)
class ModelRecipe:
    """The network, and where attention goes in it."""

    backbone: str = "timm:resnet50"
    """A model of timm (`timm:`), of torchvision (`torchvision:`), or one of ours (`ham10000:`)."""
    pretrained: bool = False
    """Start from the library's ImageNet weights, which are downloaded once."""
    weights: str | None = None
    """A file with the backbone's state dict, or the name of weights that come with a package."""
    attention: bool = False
    """Whether there is any."""
    at: str | None = None
    """The module whose output is attended; the last feature map unless given."""
    block: Literal["plain", "paper"] = "paper"
    """The attended map alone, or the paper's: beside the map, pooled, ReLU and dropout."""
    num_maps: int = 16
    """K, how many attention maps."""
    gamma: float | Literal["uniform"] | None = 0.01
    """Initial value of the learned factor of the attended map; uniform for positions / num_maps,
    with which uniform maps leave the features unchanged; null for no factor."""
    pool: int = 2
    """Of the paper's block: the size of its max-pooling, 1 for none."""
    block_drop_rate: float = 0.5
    """Of the paper's block: its dropout."""
    activation: Literal["none", "relu"] = "none"
    """Between the map at `at` and the head, where there is no attention."""
    head: Literal["pool", "flatten", "rest"] = "pool"
    """One linear layer on the mean over positions, or on all positions; what comes after `at` is
    dropped then. Or the rest of the network, of one of ours."""
    drop_rate: float = 0.0
    """Of the dropout before that linear layer."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Taken from each channel, in [0, 1]."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """What it is then divided by."""
    authors_parameters: dict[str, int] | None = None
    """What the authors' model has, to print beside: of backbone, attention and head."""


@dataclass(frozen=True)
class OptimizerRecipe:
    """How a gradient becomes a step."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """Of `torch.optim`."""
    lr: float = 1e-3
    """The learning rate; the schedule's highest."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of adam and adamw."""
    eps: float = 1e-8
    """Of adam and adamw."""
    momentum: float = 0.9
    """Of sgd, in Nesterov's form where it isn't 0."""
    weight_decay: float = 0.0
    """Of matrices and filters; biases, norms and gamma have none."""
    head_lr_scale: float = 1.0
    """The learning rate of attention and head, as a factor of `lr`."""
    layer_decay: float = 1.0
    """The factor of `lr` from each layer of the backbone to the one before it."""
    clip_norm: float | None = None
    """The longest gradient; longer ones are scaled to it."""
    accumulate: int = 1
    """How many batches make a step, each of `training.batch_size` images."""


@dataclass(frozen=True)
class ScheduleRecipe:
    """How the learning rate changes."""

    name: Literal["constant", "cosine", "one_cycle", "plateau"] = "constant"
    """one_cycle also moves the momentum, or the first of betas, between 0.85 and 0.95."""
    warmup_epochs: float = 0.0
    """How long the rate rises linearly first (constant, cosine); with one_cycle, how long it rises
    altogether, three tenths of the run for 0."""
    final: float = 0.0
    """The rate at the end, as a part of `optimizer.lr`; the lowest one with plateau."""
    factor: float = 0.1
    """Of a decrease, with plateau."""
    patience: int = 5
    """How many epochs without progress there are before a decrease, with plateau."""


@dataclass(frozen=True)
class LossRecipe:
    """What training makes small."""

    name: Literal["cross_entropy", "focal", "class_balanced"] = "cross_entropy"
    """class_balanced is cross-entropy with weights by the effective number of images."""
    class_weights: dict[str, float] | Literal["balanced"] | None = None
    """By class, 1 where there is none; "balanced" is in inverse proportion to the counts."""
    label_smoothing: float = 0.0
    """The part of a target that goes to all classes alike."""
    logit_adjustment: float = 0.0
    """How far scores are shifted, in training alone, by the logarithm of how often their class is
    drawn: with 1 the model answers as if all classes were equally frequent, with 0 as they are."""
    gamma: float = 2.0
    """Of focal: how much well classified images lose of their weight."""
    beta: float = 0.999
    """Of class_balanced: 0 weighs nothing, near 1 by the inverse of the count."""


@dataclass(frozen=True)
class TrainingRecipe:
    """How long, how large, how exactly, and what is kept."""

    epochs: int = 10
    """How often the sampler's epoch is drawn, at most."""
    batch_size: int = 32
    """Images in a batch of all processes together."""
    eval_batch_size: int = 64
    """Images in a batch of validation and test, of each process."""
    tta: Literal[1, 2, 4, 8] = 1
    """Over how many views of an image the trained model averages; epochs are judged by one."""
    precision: Literal["32", "bf16", "fp16"] = "32"
    """Of the arithmetic; weights are always in 32 bits."""
    channels_last: bool = True
    """Lay out images and filters as NHWC in memory."""
    compile: bool = False
    """Have `torch.compile` translate the model."""
    ema: float | None = None
    """The decay of a moving average of the weights, which is then what is evaluated."""
    sync_batchnorm: bool = False
    """Let batch norms see the whole batch of all processes."""
    head_first_epochs: int = 0
    """How many epochs train attention and head alone, first."""
    monitor: str = "log_loss"
    """The validation metric that says which weights are best; also the schedule plateau's. With
    `epoch` and the mode max those of the last epoch are, whatever they are worth."""
    mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""
    stop_monitor: str | None = None
    """The validation metric that says when to stop; `monitor` unless given."""
    stop_mode: Literal["min", "max"] = "min"
    """Whether less or more of `stop_monitor` is better."""
    patience: int | None = None
    """How many epochs without progress there are before training stops; null for all."""
    min_delta: float = 0.0
    """What counts as progress."""
    keep: int = 2
    """How many of the last checkpoints are kept, beside the best."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints within an epoch; there is always one at its end."""
    checkpoint_minutes: float | None = 10.0
    """Minutes between checkpoints within an epoch."""
    max_minutes: float | None = None
    """When to save and stop; resuming goes on."""
    max_bad_steps: int = 20
    """How many steps may be skipped for a loss that isn't finite."""
    deterministic: bool = True
    """Use only algorithms that give the same twice."""


@dataclass(frozen=True)
class LoggingRecipe:
    """What a run writes about itself, beside metrics.jsonl and log.txt."""

    tensorboard: bool = True
    """Scalars, confusion matrix and attention maps for TensorBoard."""
    wandb: bool = False
    """Scalars to Weights & Biases too, where it is installed."""
    profile: int = 0
    """How many steps torch's profiler traces."""
    attention_images: int = 8
    """How many validation images are shown with their attention after each epoch."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run gives."""

    name: str
    """Of the model, in tables and figures."""
    seed: int = 0
    """Of everything that is drawn."""
    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    logging: LoggingRecipe = field(default_factory=LoggingRecipe)
