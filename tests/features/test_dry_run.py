import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from softattn import ModelError, find_backbone, insert_attention
from softattn.features.dry_run import (
    Call,
    candidate_sizes,
    copy_sharing_parameters,
    dry_run,
    image_size,
    random_images,
)


class Sized(nn.Module):
    def __init__(self, channels: int = 3, **attributes: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (Sized(), [(3, 224, 224)]),
        (Sized(image_size=32), [(3, 32, 32), (3, 224, 224)]),
        (Sized(pretrained_cfg={"input_size": (3, 64, 96)}), [(3, 64, 96), (3, 224, 224)]),
        (nn.Sequential(Sized(img_size=[8, 16])), [(3, 8, 16), (3, 224, 224)]),
        (Sized(5), [(5, 224, 224), (3, 224, 224)]),
        (
            Sized(1, pretrained_cfg={"input_size": (3, 64, 64)}),
            [(3, 64, 64), (3, 224, 224), (1, 64, 64), (1, 224, 224)],
        ),
        (nn.ReLU(), [(3, 224, 224)]),
    ],
)
def test_sizes_are_those_that_the_model_declares(model: nn.Module, sizes: list[object]) -> None:
    assert candidate_sizes(model) == sizes


@pytest.mark.parametrize(
    ("given", "sizes"), [((8, 16), [(5, 8, 16), (3, 8, 16)]), ((2, 8, 16), [(2, 8, 16)])]
)
def test_a_given_size_is_the_only_one(given: tuple[int, ...], sizes: list[object]) -> None:
    assert candidate_sizes(Sized(5, image_size=32), given=given) == sizes


def test_images_have_the_device_and_dtype_of_the_parameters() -> None:
    model = nn.Conv2d(3, 4, 3, device="meta", dtype=torch.bfloat16)
    x = random_images(model, (3, 8, 8), batch=2)
    assert (x.shape, x.device.type, x.dtype) == ((2, 3, 8, 8), "meta", torch.bfloat16)
    assert torch.equal(random_images(nn.ReLU(), (3, 8, 8)), random_images(nn.ReLU(), (3, 8, 8)))


class Offloaded:
    """What accelerate stores in a module: its parameters are on the meta device between passes."""

    def __init__(self, execution_device: str | None) -> None:
        self.execution_device = execution_device


def test_images_of_an_offloaded_model_are_where_it_computes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, device="meta"), nn.Conv2d(4, 4, 3, device="meta"))
    model[0]._hf_hook, model[1]._hf_hook = Offloaded(None), Offloaded("cpu")
    assert random_images(model, (3, 8, 8)).device.type == "cpu"
    model[0].to_empty(device="cpu")
    model[1]._hf_hook.execution_device = "meta"
    assert random_images(model, (3, 8, 8)).device.type == "cpu"


def test_buffers_follow_the_parameters_to_the_meta_device() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, device="meta"), nn.BatchNorm2d(4))
    model[1].weight, model[1].bias = (nn.Parameter(p.to("meta")) for p in model[1].parameters())
    run = dry_run(model, (random_images(model, (3, 8, 8)),))
    assert (run.output.shape, run.output.device.type) == ((1, 4, 6, 6), "meta")
    assert {buffer.device.type for buffer in model.buffers()} == {"cpu"}


def test_the_image_size_is_that_of_the_first_batch_of_images() -> None:
    assert image_size((1, torch.zeros(2, 3), torch.zeros(1, 3, 8, 16))) == (8, 16)
    assert image_size((torch.zeros(2, 3),)) is None


def test_a_copy_shares_the_values_of_parameters_and_nothing_else() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).requires_grad_(False)
    copied = copy_sharing_parameters(model)
    for ours, theirs in zip(copied.parameters(), model.parameters(), strict=True):
        assert ours.data_ptr() == theirs.data_ptr()
        assert ours.requires_grad
        assert not theirs.requires_grad
    assert not any(module.training for module in copied.modules())
    copied.train()(torch.randn(2, 3, 8, 8))
    assert model[1].num_batches_tracked == 0
    assert model[1].training


def test_tied_parameters_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    copied = copy_sharing_parameters(model)
    assert copied[0].weight is copied[1].weight
    run = dry_run(model, (torch.zeros(1, 4),))
    assert run.reached(run.output) == {model[0].weight, model[0].bias, model[1].bias}


def test_calls_are_counted_by_every_name() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.ReLU()
            self.second = self.first
            self.third = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(self.first(x))

    run = dry_run(Twice(), (torch.zeros(1, 3, 2, 2),), keep={"second"})
    assert run.calls["first"] == Call(2, (1, 3, 2, 2), 4)
    assert run.calls["second"].output is not None
    assert run.calls["third"] == Call()
    assert (run.was_called("second"), run.was_called("third")) == (True, False)
    assert not any(module._forward_hooks for module in run.model.modules())


def test_reached_are_the_parameters_of_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)).requires_grad_(False)
    run = dry_run(model, (torch.zeros(1, 3, 2, 2),), keep={"0"})
    output = run.calls["0"].output
    assert isinstance(output, Tensor)
    assert run.reached(output) == set(model[0].parameters())
    assert run.reached(run.output) == set(model.parameters())


def test_hooks_are_removed_and_the_random_state_stays_when_a_model_fails() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            raise ZeroDivisionError

    model, state = Fails(), torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        dry_run(model, (torch.zeros(1),))
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.relu._forward_hooks


def test_other_threads_are_not_affected() -> None:
    """The dry run registers no global hooks."""
    seen: list[str] = []
    inside, done = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inside.set()
            done.wait(60)
            return x

    def run() -> None:
        seen.extend(dry_run(nn.Sequential(Slow()), (torch.zeros(1),)).calls)

    thread = threading.Thread(target=run)
    thread.start()
    inside.wait(60)
    nn.ReLU()(torch.zeros(1))
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not torch.nn.modules.module._global_forward_hooks
    done.set()
    thread.join()
    assert seen == ["", "0"]


class Uncopyable(nn.Module):
    """Model with objects that can't be copied, also in its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU()
        self.lock = threading.Lock()
        self.conv.numbers = iter_forever()
        self.act.register_forward_hook(Hook())

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.act(self.conv(x))


class Hook:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, *args: object) -> None:
        pass


def iter_forever() -> Iterator[int]:
    while True:
        yield 0


def test_a_list_of_results_is_not_shared() -> None:
    class Logs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.log: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.log.append(self.conv(x))
            return self.log[-1]

    model, x = Logs(), torch.randn(1, 3, 8, 8)
    model(x)
    assert len(dry_run(model, (x,)).model.log) == 2
    assert len(model.log) == 1


def test_a_module_in_a_list_is_not_shared() -> None:
    model = nn.Sequential(Uncopyable())
    model.taps = [model[0]]
    model.taps.append(model.taps)  # a list in itself
    copied = copy_sharing_parameters(model)
    assert copied.taps[0] is copied[0] is not model[0]
    assert copied.taps[1] is copied.taps
    assert copied[0].lock is model[0].lock
    assert model.training


def test_what_cannot_be_copied_is_shared() -> None:
    model = Uncopyable()
    copied = copy_sharing_parameters(model)
    assert copied.lock is model.lock
    assert copied.conv.numbers is model.conv.numbers
    assert copied.conv is not model.conv
    assert copied.act._forward_hooks is not model.act._forward_hooks
    x = torch.randn(1, 3, 8, 8)
    expected = model(x)
    assert find_backbone(Uncopyable(), input_size=(8, 8)).feature_map.at == "act"
    assert torch.equal(insert_attention(model, "act", example=x)(x), expected)


def test_a_model_that_refuses_to_be_copied() -> None:
    class Refuses(Sized):
        def __deepcopy__(self, memo: object) -> object:
            raise ValueError("only one of me")

    with pytest.raises(
        ModelError, match=r"^copying: Refuses can't be copied for a dry run: ValueError: only one"
    ):
        copy_sharing_parameters(Refuses(), "copying")
