import asyncio
import contextvars
import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from softattn import (
    ArgumentTypeError,
    ModelError,
    SoftAttention,
    SoftAttentionBlock,
    SpatialAttention,
    capture_maps,
)
from softattn.capture import _captures
from softattn.keras import KerasSoftAttention


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.late = SoftAttentionBlock(8, 2)
        self.early = nn.Sequential(
            SoftAttention(8, 4), nn.ReLU(), KerasSoftAttention(8, 3, aggregate=True)
        )

    def forward(self, x):
        return self.late(self.early(self.stem(x)))


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 7, 6)


NAMES = ["early.0", "early.2", "late.attention"]


def state_of(model):
    return {
        name: {key: repr(value) for key, value in vars(module).items()}
        for name, module in model.named_modules()
    }


def test_every_attention_by_name_in_the_order_of_the_pass(net, images):
    with capture_maps(net) as maps:
        assert not maps
        net(images)
    assert list(maps) == NAMES
    assert [tuple(values.shape) for values in maps.values()] == [
        (2, 4, 7, 6),
        (2, 3, 7, 6),
        (2, 2, 7, 6),
    ]
    torch.testing.assert_close(maps["early.0"], net.early[0](net.stem(images), return_maps=True)[1])


def test_something_other_than_a_module_is_refused():
    with pytest.raises(ArgumentTypeError, match="capturing maps: expected a"), capture_maps(None):
        pass


def test_features_are_what_they_were(net, images):
    before = net(images)
    with capture_maps(net):
        assert torch.equal(net(images), before)
    assert torch.equal(net(images), before)


def test_a_later_pass_replaces_an_earlier_one(net, images):
    with capture_maps(net) as maps:
        net(images)
        first = dict(maps)
        net(images[:1] + 1)
        assert list(maps) == NAMES
        assert all(len(values) == 1 for values in maps.values())
        assert all(len(values) == 2 for values in first.values())


def test_nothing_is_stored_and_nothing_stays(net, images):
    before = state_of(net)
    with capture_maps(net) as maps:
        net(images)
        assert state_of(net) == before
    assert state_of(net) == before
    assert not _captures.get()
    kept = dict(maps)
    net(images)
    assert all(maps[name] is kept[name] for name in NAMES)


def test_an_exception_leaves_nothing(net, images):
    net.late.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), capture_maps(net):
        net(images)
    assert not _captures.get()
    with pytest.raises(RuntimeError), capture_maps(net):
        net(torch.zeros(2, 5, 7, 6))
    assert not _captures.get()


def test_copies_made_inside_are_free(net, images):
    with capture_maps(net) as maps:
        twins = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
        for twin in twins:
            twin(images)
        assert not maps
    for twin in twins:
        with capture_maps(twin) as maps:
            twin(images)
        assert list(maps) == NAMES


def test_nested_captures(net, images):
    with capture_maps(net) as outer:
        with capture_maps(net.early) as inner:
            net(images)
        assert list(inner) == ["0", "2"]
        net(images + 1)
    assert list(outer) == NAMES
    assert not torch.equal(outer["early.0"], inner["0"])


def test_maps_carry_gradients(net, images):
    with capture_maps(net) as maps:
        net(images)
    maps["early.0"].square().sum().backward()
    assert net.stem.weight.grad.any()


def test_the_model_is_the_attention(images):
    attention = SoftAttention(3)
    with capture_maps(attention) as maps:
        attention(images)
    assert list(maps) == [""]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("capture", [lambda net, compiled: net, lambda net, compiled: compiled])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_before(net, images, capture, backend):
    expected = net(images)
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    compiled(images)
    for _ in range(2):
        with capture_maps(capture(net, compiled)) as maps:
            torch.testing.assert_close(compiled(images), expected)
        assert list(maps) == NAMES
        kept = dict(maps)
        torch.testing.assert_close(compiled(images), expected)
        assert all(maps[name] is kept[name] for name in NAMES)
    torch.testing.assert_close(maps["early.0"], net.early[0](net.stem(images), return_maps=True)[1])


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_inside(net, images):
    with capture_maps(net) as maps:
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        for shift in range(3):
            compiled(images + shift)
    assert list(maps) == NAMES
    kept = dict(maps)
    torch.testing.assert_close(compiled(images), net(images))
    assert all(maps[name] is kept[name] for name in NAMES)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_in_place(net, images):
    net.compile(fullgraph=True, backend="aot_eager")
    net(images)
    with capture_maps(net) as maps:
        net(images)
    assert list(maps) == NAMES


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_part(images):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), torch.compile(SoftAttention(8, 2), backend="eager"))
    with capture_maps(model) as maps:
        model(images)
    assert list(maps) == ["1"]


def test_an_attention_of_ones_own(images):
    class Uniform(SpatialAttention):
        def forward(self, x, return_maps=False):
            maps = torch.full_like(x[:, :1], 1 / x[0, 0].numel())
            return self.emit(x * maps, maps, return_maps)

    model = nn.Sequential(Uniform())
    with capture_maps(model) as maps:
        model(images)
    assert maps["0"].sum().item() == pytest.approx(2)


def test_a_model_without_attention():
    with pytest.raises(ModelError) as error, capture_maps(nn.Sequential(nn.ReLU())):
        pass
    assert str(error.value) == (
        "capturing attention maps: Sequential contains no attention module. Add a "
        "softattn.SoftAttention to it, or any module derived from softattn.SpatialAttention."
    )
    assert isinstance(error.value, ValueError)


class OneMap(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = SoftAttention(3, num_maps=1)

    def forward(self, x):
        return self.attention(x)


@pytest.fixture
def shared():
    return OneMap().eval()


def image_of(caller):
    return torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(caller))


def expected_maps(model, callers):
    with torch.inference_mode():
        return [model.attention(image_of(i), return_maps=True)[1] for i in range(callers)]


def foreign_maps(model, call, threads, passes):
    """Run passes in many threads, half of which capture; count maps of another thread's image."""
    expected = expected_maps(model, threads)
    together = threading.Barrier(threads)

    def run(caller):
        x, foreign = image_of(caller), 0
        together.wait()
        for _ in range(passes):
            if caller % 2:
                with capture_maps(model) as maps, torch.inference_mode():
                    call(x)
                    call(x)
                foreign += list(maps) != ["attention"]
                foreign += not torch.allclose(maps["attention"], expected[caller])
            else:
                with torch.inference_mode():
                    call(x)
        return foreign

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(run, range(threads)))


def test_threads_record_their_own_passes(shared):
    assert foreign_maps(shared, shared, threads=8, passes=250) == 0


@pytest.mark.usefixtures("fresh_compiler")
def test_threads_share_a_compiled_model(shared):
    # When threads race, torch compiles now and then what it has compiled, also without captures.
    # At the limit it runs uncompiled code, but would raise with fullgraph.
    compiled = torch.compile(shared, backend="eager")
    assert foreign_maps(shared, compiled, threads=8, passes=25) == 0


@pytest.mark.usefixtures("fresh_compiler")
def test_two_more_compilations_serve_all_captures(shared):
    compilations = []

    def backend(graph, _):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(shared, fullgraph=True, backend=backend)
    with torch.inference_mode():
        compiled(image_of(0))
        for _ in range(10):
            with capture_maps(shared):
                for _ in range(3):
                    compiled(image_of(0))
            compiled(image_of(0))
    assert len(compilations) <= 3


def test_a_pass_of_another_thread_is_not_recorded(shared):
    with capture_maps(shared) as maps:
        thread = threading.Thread(target=shared, args=(image_of(0),))
        thread.start()
        thread.join()
        assert not maps
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(shared, image_of(0)))
        thread.start()
        thread.join()
        assert list(maps) == ["attention"]


def test_tasks_record_their_own_passes(shared):
    expected = expected_maps(shared, 4)

    async def request(caller):
        with capture_maps(shared) as maps:
            for _ in range(5):
                if caller % 2:
                    shared(image_of(caller))
                else:
                    await asyncio.to_thread(shared, image_of(caller))
                await asyncio.sleep(0)
                torch.testing.assert_close(maps["attention"], expected[caller])

    async def service():
        await asyncio.gather(*(request(caller) for caller in range(4)))

    asyncio.run(service())


def test_a_task_that_outlives_the_block_is_not_recorded(shared):
    async def service():
        with capture_maps(shared) as maps:
            later = asyncio.create_task(asyncio.to_thread(shared, image_of(0)))
        await later
        return maps

    assert not asyncio.run(service())


def test_generators_may_end_in_any_order_and_context(shared):
    def watching():
        with capture_maps(shared) as maps:
            while True:
                yield maps

    first, second = watching(), watching()
    early, late = next(first), next(second)
    first.close()
    shared(image_of(0))
    assert not early
    assert late
    contextvars.copy_context().run(second.close)
    late.clear()
    shared(image_of(0))
    assert not late


def test_nothing_of_the_model_is_kept_alive(shared):
    with capture_maps(shared) as maps:
        shared(image_of(0))
    model = weakref.ref(shared.attention)
    del shared.attention
    gc.collect()
    assert model() is None
    assert list(maps) == ["attention"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(net, images, reentrant):
    expected = net.early[0](net.stem(images), return_maps=True)[1]
    x = images.clone().requires_grad_()
    with capture_maps(net) as maps:
        checkpoint(net, x, use_reentrant=reentrant).sum().backward()
    assert list(maps) == NAMES
    torch.testing.assert_close(maps["early.0"], expected)
    assert x.grad.any()


def test_data_parallel_without_gpus_runs_the_model_itself(net, images):
    parallel = nn.DataParallel(net)
    with capture_maps(parallel) as maps:
        parallel(images)
    if torch.cuda.device_count() < 2:
        assert list(maps) == [f"module.{name}" for name in NAMES]
    with capture_maps(parallel.module) as maps:
        parallel.module(images)
    assert list(maps) == NAMES


@pytest.mark.parametrize("strict", [False, True])
def test_an_export_inside(net, images, strict):
    expected = net(images)
    with capture_maps(net) as maps:
        program = torch.export.export(net, (images,), strict=strict)
    maps.clear()
    torch.testing.assert_close(program.module()(images), expected)
    assert not maps
