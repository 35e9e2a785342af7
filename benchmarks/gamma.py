"""Compare initial values of gamma: wrapped models against the bare model, on two small tasks.

    python benchmarks/gamma.py [--seeds 0 1 2 3 4] [--tasks lesions gratings] [--starts ...]
    python benchmarks/gamma.py --table

Trains every combination of four backbones, two tasks, a start (pretrained weights with a learning
rate of 0.001 or 0.0001, or random ones), an arm (the bare model, gamma 0.01, gamma "uniform") and a
seed, and appends a line to the file for each. Combinations that are in the file are not trained
again, so the command can be interrupted. Needs HAM10000_DIR, and `pip install -e
'examples/ham10000[lite]'`.

`wrap_backbone` multiplies the initial weights of the attention by 0.01 with "uniform" only, so the
arms with attention differ in both. The bare model is that of timm, or, where timm has a hidden
layer after the pooling that wrapped models don't have (MobileNetV3), the wrapped model without
attention.

The tasks are four diagnoses of HAM10000 (one image of a lesion, 400 lesions for training), and six
directions of stripes in a disc on a drawn background. Only the EfficientNet has packaged ImageNet
weights; the other backbones are pretrained on the widths of such stripes. The classifiers of the
bare models are initialized as torch does it, as those of wrapped models are: timm gives
EfficientNet's classifier weights of standard deviation 0.29, with which it trains badly in few
steps. Where the maps look is the share of attention on the object, divided by the object's share of
the image; mean over test images. It is 1 for uniform maps.
"""

import argparse
import csv
import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import timm
import torch
from ham10000.data import data_folder, open_folder, read_image, read_mask, resize
from ham10000.models import PACKAGED, packaged_weights
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from softattn import SoftAttention, wrap_backbone

FILE = Path(__file__).with_name("gamma.csv")
BACKBONES = ("tf_efficientnet_lite0", "mobilenetv3_small_100", "regnety_002", "mobilenetv2_050")
TASKS = ("lesions", "gratings")
ARMS = ("bare", "0.01", "uniform")
SIZE = 72  # pixels; the last feature map of all four backbones has 3 x 3 positions
BATCH = 32
STEPS = 12  # in an epoch
TRAIN = {"lesions": 400, "gratings": 4800}  # images; the drawn ones cost nothing
TEST = 600  # images
PERIODS = (4, 6, 8, 12)  # pixels
ANGLES = tuple(math.pi * number / 6 for number in range(6))
DIAGNOSES = ("bcc", "bkl", "mel", "nv")


@dataclasses.dataclass(frozen=True)
class Start:
    """How a model is trained: with usual rates of AdamW, the same for all arms."""

    epochs: int
    rate: float


STARTS = {
    "pretrained": Start(epochs=8, rate=1e-3),
    "random": Start(epochs=12, rate=1e-3),
    "pretrained, 1e-4": Start(epochs=8, rate=1e-4),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """Images (N, 3, SIZE, SIZE) in 0..255, labels (N,), and masks (N, 1, SIZE, SIZE) of objects."""

    images: Tensor
    labels: Tensor
    masks: Tensor
    flips: bool = False
    """Whether a flipped image has the same label."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


@functools.cache
def load_task(name: str) -> Task:
    """Return the same images in every run, the last TEST ones for the test."""
    return lesions() if name == "lesions" else gratings(of_angles=name == "gratings")


def lesions() -> Task:
    folder = open_folder(data_folder(None))
    table = folder.table.drop_duplicates("lesion_id").sort_values("lesion_id")
    count = (TRAIN["lesions"] + TEST) // len(DIAGNOSES)
    images, labels, masks = [], [], []
    for label, diagnosis in enumerate(DIAGNOSES):
        names = table[table["dx"] == diagnosis]["image_id"].sample(count, random_state=0)
        for image in names:
            images.append(resize(read_image(folder.images[image]), SIZE))
            masks.append(resize(read_mask(folder.masks[image]), SIZE, mask=True))
            labels.append(label)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    objects = (torch.stack(masks)[order] > 0).float()
    return Task(torch.stack(images)[order], torch.tensor(labels)[order], objects, flips=True)


def gratings(*, of_angles: bool) -> Task:
    """Draw a striped disc of half the width at a random place, over a blurred pattern.

    The classes are angles of the stripes, all 6 pixels wide, or else widths at any angle.
    """
    generator = torch.Generator().manual_seed(0)
    classes = len(ANGLES) if of_angles else len(PERIODS)
    labels = torch.randint(classes, (TRAIN["gratings"] + TEST,), generator=generator)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    images = torch.empty(len(labels), 3, SIZE, SIZE)
    masks = torch.zeros(len(labels), 1, SIZE, SIZE)
    for number, label in enumerate(labels.tolist()):
        coarse = torch.rand(3, 6, 6, generator=generator)
        ground = F.interpolate(coarse[None], (SIZE, SIZE), mode="bicubic")[0]
        top, left, phase = torch.rand(3, generator=generator).mul(SIZE / 2).tolist()
        disc = (y - top - SIZE / 4) ** 2 + (x - left - SIZE / 4) ** 2 < (SIZE / 4) ** 2
        angle = ANGLES[label] if of_angles else 2 * math.pi * phase / SIZE
        period = 6 if of_angles else PERIODS[label]
        along = x * math.cos(angle) + y * math.sin(angle) + phase
        stripes = 0.5 + 0.2 * torch.sin(2 * math.pi * along / period)
        images[number] = 255 * torch.where(disc, stripes * torch.ones(3, 1, 1), ground)
        masks[number, 0] = disc
    images += 30 * torch.randn(images.shape, generator=generator)
    return Task(images.clamp(0, 255).byte(), labels, masks)


def batch_images(task: Task, rows: Tensor) -> Tensor:
    images = task.images[rows].float() / 127.5 - 1
    return images.contiguous(memory_format=torch.channels_last)  # a quarter faster on a CPU


def build(backbone: str, arm: str, start: str, task: str) -> nn.Module:
    """Return a model with a new head; the random numbers are those of the global generator."""
    classes = load_task(task).num_classes
    model = bare(backbone, start, classes)
    if arm != "bare":
        gamma = arm if arm == "uniform" else float(arm)
        model = wrap_backbone(model, classes, gamma=gamma, input_size=SIZE)
    elif model.head_hidden_size != model.num_features:
        model = wrap_backbone(model, classes, block=lambda _: nn.Identity(), input_size=SIZE)
    return model.to(memory_format=torch.channels_last)


def bare(backbone: str, start: str, classes: int) -> nn.Module:
    model: nn.Module = timm.create_model(backbone, num_classes=classes)
    if start.startswith("pretrained"):
        weights = pretrained(backbone)
        head = f"{model.pretrained_cfg['classifier']}."
        weights = {key: value for key, value in weights.items() if not key.startswith(head)}
        model.load_state_dict(weights, strict=False)
    model.get_classifier().reset_parameters()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # EfficientNet's 0.01 is for far more steps than these
    return model


@functools.cache
def pretrained(backbone: str) -> dict[str, Tensor]:
    packages = {architecture: package for package, architecture in PACKAGED.items()}
    if backbone in packages:
        return dict(packaged_weights(packages[backbone]))
    torch.manual_seed(1000)
    task = load_task("widths")
    model = bare(backbone, "random", task.num_classes).to(memory_format=torch.channels_last)
    train(model, task, STARTS["random"])
    return model.state_dict()


def train(model: nn.Module, task: Task, start: Start) -> float:
    """Train on all but the last TEST images, and return the mean loss of the last epoch."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]  # norms, biases, gamma
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=start.rate,
        weight_decay=0.05,
    )
    steps = start.epochs * STEPS
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, start.rate, total_steps=steps)
    model.train()
    losses: list[float] = []
    for _ in range(start.epochs):
        losses = []
        for _ in range(STEPS):
            rows = torch.randint(len(task.labels) - TEST, (BATCH,))
            images = batch_images(task, rows)
            if task.flips:
                images = images.flip([d for d in (2, 3) if torch.rand(()) < 0.5])
            loss = F.cross_entropy(model(images), task.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return statistics.fmean(losses)


@torch.inference_mode()
def test(model: nn.Module, task: Task) -> tuple[float, float]:
    """Return the macro AUC, and where the maps look (NaN for the bare model)."""
    model.eval()
    scores, looks = [], []
    for rows in torch.arange(len(task.labels))[-TEST:].split(100):
        images = batch_images(task, rows)
        if isinstance(getattr(model, "attention", None), SoftAttention):
            output, maps = model(images, return_maps=True)
            mean = maps.mean(1, keepdim=True)  # sums to 1 over the positions
            area = F.interpolate(task.masks[rows], mean.shape[2:], mode="area")
            looks += ((mean * area).sum((1, 2, 3)) / area.mean((1, 2, 3))).tolist()
        else:
            output = model(images)
        scores.append(output.softmax(1))
    labels = task.labels[-TEST:]
    auc = roc_auc_score(labels.numpy(), torch.cat(scores).numpy(), multi_class="ovr")
    looks = [look for look in looks if math.isfinite(look)]  # some lesions have an empty mask
    return float(auc), statistics.fmean(looks) if looks else math.nan


def run(backbone: str, task: str, start: str, arm: str, seed: int) -> dict[str, object]:
    load_task(task)
    if start.startswith("pretrained"):
        pretrained(backbone)
    begun = time.process_time()
    torch.manual_seed(seed)
    model = build(backbone, arm, start, task)
    torch.manual_seed(seed)  # the same order of images in all arms
    loss = train(model, load_task(task), STARTS[start])
    auc, look = test(model, load_task(task))
    return {
        "backbone": backbone,
        "task": task,
        "start": start,
        "arm": arm,
        "seed": seed,
        "auc": f"{auc:.4f}",
        "loss": f"{loss:.4f}",
        "look": f"{look:.3f}",
        "cpu_seconds": f"{time.process_time() - begun:.0f}",
    }


def read(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def combinations(
    seeds: Iterable[int], tasks: Iterable[str] = TASKS, starts: Iterable[str] = tuple(STARTS)
) -> Iterator[tuple[str, str, str, str, int]]:
    # arms last, so that a file that is not complete can be compared
    for seed, start, task, backbone in itertools.product(seeds, starts, tasks, BACKBONES):
        for arm in ARMS:
            yield backbone, task, start, arm, seed


def table(rows: list[dict[str, str]]) -> list[str]:
    """Return a Markdown table of each task, start and backbone: mean ± standard deviation.

    Seeds without all arms are left out.
    """
    lines = [
        "| task | weights | backbone | bare | gamma 0.01 | uniform | uniform - bare "
        "| maps, 0.01 | maps, uniform |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, each in _by_arm(rows).groupby(["task", "start", "backbone"]):
        auc, look = each["auc"], each["look"]
        cells = [spread(auc[arm].tolist()) for arm in ARMS]
        cells.append(spread((auc["uniform"] - auc["bare"]).tolist(), sign=True))
        cells += [f"{look[arm].mean():.2f}" for arm in ARMS[1:]]
        lines.append("| " + " | ".join([*key, *cells]) + " |")
    return lines


def summary(rows: list[dict[str, str]]) -> list[str]:
    """Return a Markdown table of means over the backbones, with standard deviations over the seeds.

    Its columns are the differences of the AUC from the bare models, and the losses of the last
    epoch of training. Seeds without all runs are left out.
    """
    by_seed = _by_arm(rows).groupby(["task", "start", "seed"])
    means = by_seed.mean()[by_seed.size() == len(BACKBONES)]
    lines = [
        "| task | weights | AUC, 0.01 - bare | AUC, uniform - bare "
        "| loss, bare | loss, 0.01 | loss, uniform |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, each in means.groupby(["task", "start"]):
        auc, loss = each["auc"], each["loss"]
        cells = [spread((auc[arm] - auc["bare"]).tolist(), sign=True) for arm in ARMS[1:]]
        cells += [f"{loss[arm].mean():.2f}" for arm in ARMS]
        lines.append("| " + " | ".join([*key, *cells]) + " |")
    return lines


def _by_arm(rows: list[dict[str, str]]) -> pd.DataFrame:
    """Return the results of each seed that has all arms: columns (metric, arm)."""
    metrics = ["auc", "loss", "look"]
    runs = pd.DataFrame(rows).astype(dict.fromkeys(metrics, float))
    keys = ["task", "start", "backbone", "seed"]
    found = runs.pivot(index=keys, columns="arm", values=metrics)
    return found[found["auc"].notna().all(axis=1)]


def spread(values: list[float], *, sign: bool = False) -> str:
    mean = f"{statistics.fmean(values):{'+' if sign else ''}z.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--starts", nargs="+", default=[*STARTS], choices=[*STARTS])
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--table", action="store_true", help="print the tables of the file")
    args = parser.parse_args()
    if args.table:
        rows = read(args.out)
        print("\n".join([*summary(rows), "", *table(rows)]))
        return
    done = read(args.out)
    keys = ("backbone", "task", "start", "arm", "seed")
    finished = {tuple(row[key] for key in keys) for row in done}
    for combination in combinations(args.seeds, args.tasks, args.starts):
        if tuple(map(str, combination)) in finished:
            continue
        row = run(*combination)
        new = not args.out.exists()
        with args.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
