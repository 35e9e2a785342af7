"""Fields of a recipe with their types, ranges and defaults: one dataclass for each section."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from ham10000.data import DX_TYPES, PRESETS, TEST_SHARE, SplitProtocol

__all__ = [
    "MAP_LAYERS",
    "AttentionRecipe",
    "DataRecipe",
    "LoggingRecipe",
    "LossRecipe",
    "ModelRecipe",
    "OneOf",
    "OptimizerRecipe",
    "Range",
    "Recipe",
    "ScheduleRecipe",
    "TrainingRecipe",
]


@dataclass(frozen=True)
class Range:
    """Allowed values of a number, or of each number in a list or mapping.

    Example:
        >>> from ham10000.recipe.recipe import Range
        >>> 1.0 in Range(0, 1), 1.0 in Range(0, 1, open_high=True)
        (True, False)
        >>> print(Range(0), "|", Range(0, open_low=True), "|", Range(0, 1, open_high=True))
        0 or more | more than 0 | in [0, 1)

    Attributes:
        low: Smallest value.
        high: Largest value.
        open_low: Whether `low` itself is excluded.
        open_high: Whether `high` itself is excluded.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"more than {self.low}" if self.open_low else f"{self.low} or more"
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"in {left}{self.low}, {self.high}{right}"


@dataclass(frozen=True)
class OneOf:
    """Allowed values of a text, or allowed keys of a mapping.

    Attributes:
        options: The values.
    """

    options: tuple[str, ...]

    def __init__(self, options: Iterable[str]) -> None:
        object.__setattr__(self, "options", tuple(options))


_POSITIVE = Range(0, open_low=True)
_NOT_NEGATIVE = Range(0)
_BELOW_ONE = Range(0, 1, open_high=True)
_UP_TO_ONE = Range(0, 1)


@dataclass(frozen=True)
class DataRecipe:
    """Data set, split, and how batches are made."""

    root: Path | None = None
    """Folder of the data set. Defaults to HAM10000_DIR."""
    set: str = "ham10000"
    """Name of the data set, or path of its description, a YAML file."""
    cache: Path | None = None
    """Folder of decoded images. Defaults to a folder next to the run, which is made if missing."""
    check_cache: bool = True
    """Whether to verify the checksums of cache and features at the start (1.2 s at 224 pixels)."""
    features: Path | None = None
    """Folder of the feature maps of a frozen backbone. Defaults to a folder next to the run, which
    is made if missing."""
    size: Annotated[int, _POSITIVE] = 224
    """Width and height of the resized images in pixels."""
    split: Path | None = None
    """Split file. Defaults to a split made by `protocol`."""
    protocol: SplitProtocol = "lesion"
    """lesion: all lesions, stratified, duplicates kept together; kfold: the same in folds; paper:
    the authors' split, without a validation set; paper_val: with one; published: that of the data
    set itself."""
    test_share: Annotated[float, Range(0, 0.5, open_low=True)] = TEST_SHARE
    """Share of the lesions with one image in the test set of paper and paper_val."""
    validation: bool | None = None
    """Whether kfold has a validation fold. Defaults to whether a validation metric selects the
    weights, stops training or drives the schedule."""
    split_seed: Annotated[int | None, _NOT_NEGATIVE] = None
    """Seed of the split. Defaults to `seed`."""
    fold: Annotated[int | None, _NOT_NEGATIVE] = None
    """Index of the test fold with protocol kfold."""
    pairs: Path | None = None
    """File of duplicates from `verify --pairs-out`. Defaults to a new search."""
    workers: Annotated[int, _NOT_NEGATIVE] = 2
    """Number of loader processes; with 0 the training process makes the batches."""
    balance: Literal["none", "sqrt", "class"] = "none"
    """Sampling weight of a class: proportional to its count, to the root of its count, or equal."""
    epoch_samples: Annotated[int | None, _POSITIVE] = None
    """Number of images in an epoch. Defaults to the size of the training set."""
    offline: Literal["auto"] | Path | None = None
    """Folder of a training set augmented in advance, as `augment-offline` writes it, or auto for
    one next to the run; made if missing. Defaults to training on the images themselves."""
    augment: Annotated[str, OneOf(PRESETS)] = "authors"
    """Preset of `ham10000.data.Augment`; trivial and rand are TrivialAugment and RandAugment."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """Mixing of pairs of images."""
    metadata: bool = False
    """Whether the model also gets age, sex and site of the lesion."""


@dataclass(frozen=True)
class ModelRecipe:
    """Backbone and head."""

    backbone: str = "timm:resnet50"
    """Model name with its source: `timm:`, `torchvision:` or, for the authors' networks,
    `ham10000:`."""
    pretrained: bool = False
    """Whether to start from the ImageNet weights of timm or torchvision, downloaded once."""
    weights: str | None = None
    """File with a state dict of the backbone, or name of weights from an installed package."""
    frozen: bool = False
    """Whether the backbone is not trained. Attention and head are then trained on its feature maps,
    which are computed once."""
    at: str | None = None
    """Name of the module that computes the input of the attention, or of the head if there is
    none. Defaults to the last feature map."""
    activation: Literal["none", "relu"] = "none"
    """Activation between the map at `at` and the head; only without attention."""
    head: Literal["pool", "max", "flatten", "probe", "rest"] = "pool"
    """pool: linear layer after global average pooling; max: after global max pooling; flatten:
    linear layer on all positions; probe: multi-query attentive probe; rest: remaining stages of a
    `ham10000:` network."""
    num_queries: Annotated[int, _POSITIVE] = 16
    """Number of queries of the head probe; a divisor of the number of channels."""
    drop_rate: Annotated[float, _BELOW_ONE] = 0.0
    """Dropout before the linear layer of the head."""
    fusion: Literal["late", "concat", "metanet", "metablock"] = "late"
    """How metadata is combined with the image (data.metadata). late: logits of both are added;
    concat: features of both are concatenated, before a hidden layer; metanet, metablock: metadata
    scales or gates the channels of the feature map, before the attention."""
    drop_block_rate: Annotated[float, _BELOW_ONE] = 0.0
    """Share of the positions that DropBlock drops in the last stages of the backbone, in training
    (some models of timm, such as ResNets)."""
    head_init: Literal["torch", "keras"] = "torch"
    """Initial linear layers of the head: torch's defaults, or Glorot-uniform weights and zero
    biases, the defaults of Keras."""
    norm_momentum: Annotated[float | None, _UP_TO_ONE] = None
    """Share of a batch in the running statistics of batch norms; 0.01 is the default of Keras.
    Defaults to that of the model, in most 0.1."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of each channel that is subtracted, of values in [0, 1]."""
    std: Annotated[tuple[float, float, float], _POSITIVE] = (0.5, 0.5, 0.5)
    """Standard deviation of each channel that is divided by."""
    authors_parameters: Annotated[dict[str, int] | None, _NOT_NEGATIVE] = None
    """Parameter counts of the authors' model by part, printed for comparison."""


MapLayer = Literal["soft", "placebo", "keras"]
TimmLayer = Literal["se", "ese", "eca", "ceca", "gc", "gca", "cbam", "lcbam"]
# timm's other attentions replace a convolution (sk, splat), need the size of the map (bottleneck,
# halo, coord) or a multiple of channels (bat), or fail when built from their defaults (ge).

MAP_LAYERS: tuple[str, ...] = get_args(MapLayer)
"""Values of `attention.layer` with attention maps."""


@dataclass(frozen=True)
class AttentionRecipe:
    """Attention between backbone and head.

    A field that the layer does not use must have its default value. With layer none, all fields are
    ignored, so that a recipe without attention can be the base of recipes with attention.
    """

    layer: Literal["none", MapLayer, TimmLayer] = "none"
    """soft: equation 1 of the paper; placebo: the same, with the convolution frozen at zero, which
    makes the maps uniform; keras: the layer in the authors' code; otherwise an attention of timm,
    by its name there."""
    block: Literal["plain", "paper"] = "plain"
    """plain: the attended map; paper: feature map and attended map pooled and concatenated, with
    ReLU and dropout (soft, placebo, keras)."""
    num_maps: Annotated[int, _POSITIVE] = 16
    """Number of attention maps K (soft, placebo, keras)."""
    kernel_size: Annotated[int, _POSITIVE] = 3
    """Width and height of the convolution that computes the maps, an odd number (soft, placebo)."""
    aggregate: bool = True
    """Whether the features are multiplied by the sum of the maps; otherwise by each of them, which
    gives K times as many channels (soft, placebo, keras)."""
    concat: bool = False
    """Whether the unchanged features are passed on too, as more channels (soft, placebo, keras in
    the plain block)."""
    gamma: float | Literal["uniform"] | None = 0.01
    """Initial value of the learned factor of the attended map; uniform for positions / num_maps,
    with which uniform maps leave the features unchanged; null for no factor (soft, placebo)."""
    pool: Annotated[int, _POSITIVE] = 2
    """Size of the max-pooling of the paper's block; 1 for none."""
    drop_rate: Annotated[float, _BELOW_ONE] = 0.5
    """Dropout of the paper's block."""


@dataclass(frozen=True)
class OptimizerRecipe:
    """Optimizer and gradients."""

    name: Literal["adam", "adam_keras", "adamw", "sgd"] = "adamw"
    """Optimizer of `torch.optim`; adam_keras is Adam with `eps` where Keras has it, which makes
    much shorter first steps if `eps` is large."""
    lr: Annotated[float, _POSITIVE] = 1e-3
    """Learning rate; the highest one of the schedule."""
    betas: Annotated[tuple[float, float], _BELOW_ONE] = (0.9, 0.999)
    """Decay rates of the moments (adam, adam_keras, adamw)."""
    eps: Annotated[float, _POSITIVE] = 1e-8
    """Term in the denominator (adam, adam_keras, adamw)."""
    momentum: Annotated[float, _BELOW_ONE] = 0.9
    """Nesterov momentum (sgd)."""
    weight_decay: Annotated[float, _NOT_NEGATIVE] = 0.0
    """Weight decay of matrices and filters; biases, norms and gamma have none."""
    head_lr_scale: Annotated[float, _POSITIVE] = 1.0
    """Factor of `lr` for attention and head."""
    layer_decay: Annotated[float, _UP_TO_ONE] = 1.0
    """Factor of the learning rate from each layer of the backbone to the one before it."""
    clip_norm: Annotated[float | None, _POSITIVE] = None
    """Largest norm of the gradient; null for no clipping."""
    accumulate: Annotated[int, _POSITIVE] = 1
    """Number of batches whose gradients are accumulated for a step."""


@dataclass(frozen=True)
class ScheduleRecipe:
    """Learning rate schedule."""

    name: Literal["constant", "cosine", "one_cycle", "plateau"] = "constant"
    """one_cycle also cycles the momentum, or the first of betas, between 0.85 and 0.95."""
    warmup_epochs: Annotated[float, _NOT_NEGATIVE] = 0.0
    """Epochs of linear warm-up (constant, cosine), or epochs until the peak (one_cycle; 0 for three
    tenths of the run)."""
    final: Annotated[float, _UP_TO_ONE] = 0.0
    """Final learning rate, or the lowest one with plateau, as a fraction of `optimizer.lr`."""
    factor: Annotated[float, _BELOW_ONE] = 0.1
    """Factor of each decrease (plateau)."""
    patience: Annotated[int, _NOT_NEGATIVE] = 5
    """Epochs without improvement before a decrease (plateau)."""


@dataclass(frozen=True)
class LossRecipe:
    """Training loss."""

    name: Literal["cross_entropy", "focal", "class_balanced", "multi_weighted"] = "cross_entropy"
    """class_balanced is cross-entropy weighted by the effective number of images; multi_weighted is
    one-vs-all and focal, weighted by inverse counts, and constant for outliers."""
    class_weights: Annotated[dict[str, float] | Literal["balanced"] | None, _POSITIVE] = None
    """Weight by class, 1 for the others; balanced for the inverse of the counts."""
    dx_type_weights: Annotated[dict[str, float] | None, _NOT_NEGATIVE, OneOf(DX_TYPES)] = None
    """Weight of an image by the confirmation of its diagnosis, 1 for the others; it multiplies that
    of its class."""
    label_smoothing: Annotated[float, _BELOW_ONE] = 0.0
    """Part of the target that is spread over all classes."""
    logit_adjustment: Annotated[float, _NOT_NEGATIVE] = 0.0
    """Scale of the logarithm of the class frequencies that is added to the logits in training; with
    1 the trained model predicts as if all classes were equally frequent."""
    gamma: Annotated[float, _NOT_NEGATIVE] = 2.0
    """Focusing parameter (focal, multi_weighted)."""
    beta: Annotated[float, _BELOW_ONE] = 0.999
    """Hyperparameter of the effective number of images (class_balanced); 0 for equal weights."""
    power: Annotated[float, _NOT_NEGATIVE] = 1.2
    """Exponent of the inverse counts (multi_weighted)."""
    cumulative: Annotated[tuple[float, float] | None, _NOT_NEGATIVE] = None
    """Epochs from which the weights grow from 1, and at which they are complete (multi_weighted);
    null for complete weights from the start."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Length of training, batches, evaluation and checkpoints."""

    epochs: Annotated[int, _POSITIVE] = 10
    """Largest number of epochs."""
    batch_size: Annotated[int, _POSITIVE] = 32
    """Batch size of all processes together."""
    eval_batch_size: Annotated[int, _POSITIVE] = 64
    """Batch size of each process in validation and test."""
    tta: Literal[1, 2, 4, 8] = 1
    """Number of views of a test image whose probabilities are averaged; validation after an epoch
    uses one."""
    crops: Literal[1, 4, 9, 16, 25, 36] = 1
    """Number of crops of a test image (of each of its views) in a square grid, whose logits are
    averaged; 1 for the whole image."""
    crop_scale: Annotated[float, Range(0, 1, open_low=True)] = 0.8
    """Side of a crop, as a share of that of the image (crops); crops are resized to `data.size`."""
    precision: Literal["32", "bf16", "fp16"] = "32"
    """Precision of the computation; weights are stored in float32."""
    channels_last: bool = True
    """Whether to use the memory format channels_last."""
    compile: bool = False
    """Whether to use `torch.compile`."""
    ema: Annotated[float | None, _BELOW_ONE] = None
    """Decay of the moving average of the weights that is evaluated; null for none."""
    sync_batchnorm: bool = False
    """Whether batch norms synchronize over processes (GPUs only)."""
    head_first_epochs: Annotated[int, _NOT_NEGATIVE] = 0
    """Number of first epochs in which only attention and head are trained."""
    monitor: str = "log_loss"
    """Validation metric that selects the best weights and drives the schedule plateau. `epoch` with
    mode max selects the last epoch."""
    mode: Literal["min", "max"] = "min"
    """Whether `monitor` is minimized or maximized."""
    stop_monitor: str | None = None
    """Validation metric of early stopping. Defaults to `monitor`."""
    stop_mode: Literal["min", "max"] = "min"
    """Whether `stop_monitor` is minimized or maximized."""
    patience: Annotated[int | None, _NOT_NEGATIVE] = None
    """Epochs without improvement before training stops; null for no early stopping."""
    min_delta: Annotated[float, _NOT_NEGATIVE] = 0.0
    """Smallest change that counts as improvement."""
    keep: Annotated[int, _POSITIVE] = 2
    """Number of last checkpoints to keep, besides the best weights."""
    checkpoint_steps: Annotated[int | None, _POSITIVE] = None
    """Steps between checkpoints within an epoch; each epoch ends with one."""
    checkpoint_minutes: Annotated[float | None, _POSITIVE] = 10.0
    """Minutes between checkpoints within an epoch."""
    max_minutes: Annotated[float | None, _POSITIVE] = None
    """Minutes after which the run saves a checkpoint and stops; it can be resumed."""
    max_bad_steps: Annotated[int, _NOT_NEGATIVE] = 20
    """Largest number of steps skipped because of a non-finite loss."""
    deterministic: bool = True
    """Whether to use deterministic algorithms only."""


@dataclass(frozen=True)
class LoggingRecipe:
    """Logs besides metrics.jsonl and log.txt."""

    tensorboard: bool = True
    """Whether to log scalars, confusion matrix and attention maps to TensorBoard."""
    wandb: bool = False
    """Whether to log the same and the model to Weights & Biases, which must be installed; not with
    `model.frozen`."""
    profile: Annotated[int, _NOT_NEGATIVE] = 0
    """Number of steps to trace with torch's profiler."""
    attention_images: Annotated[int, _NOT_NEGATIVE] = 8
    """Number of validation images whose attention is logged after each epoch."""


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the result of a training run."""

    name: str
    """Name of the model in tables and figures."""
    seed: Annotated[int, _NOT_NEGATIVE] = 0
    """Seed of weights, sampling, augmentation and, without `data.split_seed`, of the split."""
    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    attention: AttentionRecipe = field(default_factory=AttentionRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    logging: LoggingRecipe = field(default_factory=LoggingRecipe)
