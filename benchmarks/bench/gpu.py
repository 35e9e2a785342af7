"""Time of the layer and of wrapped models on a GPU, in bfloat16, eager and compiled."""

from collections.abc import Callable, Iterator

import timm
import torch
from torch import Tensor, nn

from bench.harness import Row, compare, take_turns
from bench.layer import BOTH, FORWARD, maps_of, with_backward
from bench.models import Work, inference, training_step
from bench.others import Conv3dAttention, bare, plain
from softattn import SoftAttention, wrap_backbone

SHAPES = [(1536, 8, 8), (512, 28, 28), (2048, 7, 7), (256, 56, 56)]
MODELS = ("resnet50", "tf_efficientnet_lite0", "convnext_tiny", "vit_small_patch16_224")
COMPILED = MODELS[:1]
DEVICE = "cuda"
WALL = 2  # for `take_turns`: with more than one thread, times are wall-clock times


def gpu_layer(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time the layer and its alternatives at a batch of 64."""
    del threads
    torch.set_default_device(DEVICE)
    shapes = SHAPES[:1] if quick else SHAPES
    for x, name in maps_of(shapes, (64,), (torch.bfloat16,), ("NHWC",)):
        torch.compiler.reset()
        ours = SoftAttention(x.shape[1], dtype=x.dtype)
        conv3d = Conv3dAttention(x.shape[1]).to(x.dtype)
        weight, bias, gamma = ours.weight, ours.bias, ours.gamma
        assert gamma is not None
        # A compiled function per mode: compiling again for the other one would count as its time.
        for part in (FORWARD, BOTH):
            fast = torch.compile(_copy(ours), fullgraph=True)
            forward: dict[str, Callable[[], Tensor]] = {
                "bare convolution": lambda x=x, w=weight, b=bias: bare(x, w, b),
                "softattn": lambda x=x, m=ours: m(x),
                "plain torch": lambda x=x, w=weight, b=bias, g=gamma: plain(x, w, b, g),
                "softattn, compiled": lambda x=x, m=fast: m(x),
                "Conv3d form": lambda x=x, m=conv3d: m(x),
            }
            if part == FORWARD:
                with torch.no_grad():
                    times = take_turns(forward, rounds, WALL, most=1)
            else:
                x.requires_grad_()
                both = {side: with_backward(run, x) for side, run in forward.items()}
                times = take_turns(both, rounds, WALL, most=1)
            yield compare(f"GPU, {part}", name, times, "bare convolution")


def gpu_models(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time training steps and inference of wrapped models and of the bare ones, under autocast."""
    del threads
    names = MODELS[:1] if quick else MODELS
    cases = [(name, False) for name in names] + [(name, True) for name in COMPILED if name in names]
    for name, compiled in cases:
        images = torch.randn(64, 3, 224, 224, device=DEVICE)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(7, (64,), device=DEVICE)
        built: dict[str, nn.Module] = {
            "bare": timm.create_model(name, num_classes=7),
            "wrapped": wrap_backbone(f"timm:{name}", 7),
        }
        models = {}
        for side, model in built.items():
            model = model.to(DEVICE, memory_format=torch.channels_last)
            models[side] = torch.compile(model) if compiled else model
        case = f"{name}, 64 x 224 x 224" + ", compiled" * compiled
        for part, work in (("training step", training_step), ("inference", inference)):
            if compiled and work is inference:
                continue  # compiling again takes longer than the measurement
            works = {}
            for side, model in models.items():
                model.train(work is training_step)
                works[side] = _in_bfloat16(work, model, images, labels)
            times = take_turns(works, rounds, WALL, least=0.1, most=4)
            yield compare(f"GPU, wrapped, {part}", case, times, "bare")


def _in_bfloat16(work: Callable[..., Work], model: nn.Module, *inputs: Tensor) -> Work:
    run = work(model, *inputs) if work is training_step else work(model, inputs[0])

    def run_in_bfloat16() -> object:
        with torch.autocast(DEVICE, torch.bfloat16):
            return run()

    return run_in_bfloat16


def _copy(layer: SoftAttention) -> SoftAttention:
    copy = SoftAttention(layer.weight.shape[1], dtype=layer.weight.dtype)
    copy.load_state_dict(layer.state_dict())
    return copy
