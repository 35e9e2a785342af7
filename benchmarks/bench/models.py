"""Whole models: wrapped and bare, with and without capture_maps."""

from collections.abc import Callable, Iterator

import timm
import torch
from torch import Tensor, nn

from bench.harness import Row, Work, compare, take_turns
from softattn import capture_maps, wrap_backbone

MODELS = {"resnet18": 224, "resnet50": 224, "convnext_tiny": 224, "mobilenetv3_large_100": 224,
          "vit_small_patch16_224": 224, "inception_resnet_v2": 299}  # fmt: skip


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Work:
    """Return a function that makes a step of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def work() -> None:
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def inference(model: nn.Module, images: Tensor) -> Work:
    """Return a function that makes a pass without gradients."""

    @torch.inference_mode()
    def work() -> object:
        return model(images)

    return work


def wrapped(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time training steps and inference of wrapped models and of the bare ones."""
    for name, size in list(MODELS.items())[: 1 if quick else None]:
        batch = 2 if size > 224 else 4
        images, labels = torch.randn(batch, 3, size, size), torch.randint(7, (batch,))
        built: dict[str, Callable[[], nn.Module]] = {
            "bare": lambda name=name: timm.create_model(name, num_classes=7),
            "wrapped": lambda name=name: wrap_backbone(f"timm:{name}", 7),
        }
        models = {side: build() for side, build in built.items()}
        case = f"{name}, {batch} x {size} x {size}"
        works = {side: training_step(model.train(), images, labels)
                 for side, model in models.items()}  # fmt: skip
        times = take_turns(works, rounds, threads, least=0, most=24)
        yield compare("wrapped, training step", case, times, "bare")
        works = {side: inference(model.eval(), images) for side, model in models.items()}
        times = take_turns(works, rounds, threads, least=0, most=12)
        yield compare("wrapped, inference", case, times, "bare")


def capture(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time passes inside and outside of capture_maps."""
    del quick
    model = wrap_backbone("torchvision:resnet18", num_classes=7).eval()
    plain = inference(model, torch.randn(4, 3, 224, 224))

    def captured() -> None:
        with capture_maps(model):
            plain()

    times = take_turns(
        {"without": plain, "capture_maps": captured}, rounds, threads, least=0, most=15
    )
    yield compare("capture", "resnet18, 4 x 224 x 224", times, "without")
