"""The hand-written gradient equals that of autograd, here on small tensors."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from softattn.errors import ShapeError
from softattn.functional import attend, attention_maps, soft_attention
from softattn.ops import backward

NAMES = ("x", "weight", "bias", "gamma")
FROZEN = [*itertools.combinations(NAMES, 1), *itertools.combinations(NAMES, 3)]
OPTIONS = list(itertools.product([True, False], repeat=2))


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Use the hand-written gradient for small feature maps too, in pieces of two samples."""
    monkeypatch.setattr(backward, "_MIN_BYTES", 0)
    monkeypatch.setattr(backward, "_PIECE_BYTES", 2 * 4 * 5 * 3 * 8)


@pytest.fixture
def calls(monkeypatch):
    """Record the uses of the hand-written gradient."""
    counted = []
    apply = backward._LowMemoryGradient.apply

    def counting(*arguments):
        counted.append(arguments)
        return apply(*arguments)

    monkeypatch.setattr(backward._LowMemoryGradient, "apply", counting)
    return counted


def inputs(dtype=torch.float64, batch=5, kernel=(3, 3), gamma=0.7):
    given = {
        "x": torch.randn(batch, 4, 5, 3, dtype=dtype),
        "weight": torch.randn(3, 4, *kernel, dtype=dtype),
        "bias": torch.randn(3, dtype=dtype),
        "gamma": torch.tensor(gamma, dtype=dtype),
    }
    return {name: tensor.requires_grad_() for name, tensor in given.items()}


def plain(x, weight, bias, gamma, **options):
    maps = attention_maps(x, weight, bias)
    return attend(x, maps, gamma, **options), maps


def gradients(outputs, given, grads):
    wanted = [t for t in given if isinstance(t, torch.Tensor) and t.requires_grad]
    return torch.autograd.grad(outputs, wanted, grads, allow_unused=True)


def assert_same_gradients(given, grads=(True, True), **options):
    arguments = tuple(given.values())
    ours = soft_attention(*arguments, **options, return_maps=True)
    theirs = plain(*arguments, **options)
    used = [i for i in (0, 1) if grads[i]]
    incoming = [torch.randn_like(theirs[i]) for i in used]
    found = gradients([ours[i] for i in used], arguments, incoming)
    expected = gradients([theirs[i] for i in used], arguments, incoming)
    for one, other in zip((*ours, *found), (*theirs, *expected), strict=True):
        if other is None:
            assert one is None or not one.any()
        else:
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3)])
@pytest.mark.parametrize(("aggregate", "concat"), OPTIONS)
@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)])
def test_gradients_are_autograds(calls, kernel, aggregate, concat, grads):
    assert_same_gradients(inputs(kernel=kernel), grads, aggregate=aggregate, concat=concat)
    assert calls


@pytest.mark.parametrize(("size", "kernel"), [((7,), (3,)), ((3, 4, 2), (3, 1, 5))])
@pytest.mark.parametrize(("aggregate", "concat"), OPTIONS)
@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)])
def test_signals_and_volumes(calls, size, kernel, aggregate, concat, grads):
    given = inputs(kernel=kernel)
    given["x"] = torch.randn(5, 4, *size, dtype=torch.float64, requires_grad=True)
    assert_same_gradients(given, grads, aggregate=aggregate, concat=concat)
    assert calls


@pytest.mark.parametrize("aggregate", [True, False])
def test_a_factor_of_one_element(calls, aggregate):
    gamma = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    assert_same_gradients({**inputs(), "gamma": gamma}, aggregate=aggregate)
    assert calls


@pytest.mark.parametrize("given", [{"bias": None}, {"gamma": None}, {"gamma": -2.0}])
@pytest.mark.parametrize("aggregate", [True, False])
def test_what_may_be_missing(calls, given, aggregate):
    assert_same_gradients({**inputs(), **given}, aggregate=aggregate)
    assert calls


@pytest.mark.parametrize("frozen", FROZEN)
def test_only_requested_gradients(calls, frozen):
    given = inputs()
    for name in frozen:
        given[name].requires_grad_(False)
    assert_same_gradients(given, grads=(True, False), concat=True)
    assert calls


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(calls, dtype, aggregate):
    given = {**inputs(dtype), "bias": None}  # whose gradient is zero but for rounding
    arguments = tuple(given.values())
    features = soft_attention(*arguments, aggregate=aggregate)
    incoming = torch.randn_like(features)
    found = gradients(features, arguments, incoming)
    exact = [t if t is None else t.detach().double().requires_grad_() for t in arguments]
    expected = gradients(plain(*exact, aggregate=aggregate)[0], exact, incoming.double())
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        scale = theirs.abs().max().clamp(min=1e-2)
        assert ((ours.double() - theirs).abs().max() / scale) < tolerance
    assert calls


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_none_and_of_one(calls, batch):
    assert_same_gradients(inputs(batch=batch), concat=True)
    assert calls


def test_channels_last_stays(calls):
    given = inputs(torch.float32)
    x = given["x"].detach().to(memory_format=torch.channels_last).requires_grad_()
    assert_same_gradients({**given, "x": x}, aggregate=False)
    soft_attention(*({**given, "x": x}).values()).square().sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    assert calls


def test_a_gradient_that_is_expanded(calls):
    given = inputs()
    soft_attention(*given.values()).sum().backward()
    expected = gradients(plain(*given.values())[0].sum(), tuple(given.values()), None)
    for tensor, theirs in zip(given.values(), expected, strict=True):
        torch.testing.assert_close(tensor.grad, theirs)
    assert calls


def test_second_derivatives_of_the_maps_alone(calls):
    given = inputs()
    wanted = tuple(given.values())
    first = []
    for maps in (soft_attention(*wanted, return_maps=True)[1], plain(*wanted)[1]):
        torch.manual_seed(0)
        incoming = torch.randn_like(maps)
        first.append(
            torch.autograd.grad(maps, wanted, incoming, create_graph=True, allow_unused=True)
        )
    ours, theirs = first
    assert ours[3] is None or not ours[3].any()
    for one, other in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(one, other)
    assert calls


def test_maps_do_not_depend_on_gamma(calls):
    given = inputs()
    for name in ("x", "weight", "bias"):
        given[name].requires_grad_(False)
    _, maps = soft_attention(*given.values(), return_maps=True)
    wanted = [given["gamma"]]
    found = torch.autograd.grad(maps.sum(), wanted, create_graph=True, allow_unused=True)
    assert found == (None,)
    assert calls


@pytest.mark.parametrize(("aggregate", "concat"), OPTIONS)
def test_second_derivatives(calls, aggregate, concat):
    x, weight = torch.randn(2, 2, 3, 2, dtype=torch.float64), torch.randn(2, 2, 1, 3).double()
    bias, gamma = torch.randn(2).double(), torch.tensor(0.7).double()

    def function(*arguments):
        return soft_attention(*arguments, aggregate=aggregate, concat=concat, return_maps=True)

    arguments = [t.requires_grad_() for t in (x, weight, bias, gamma)]
    assert gradcheck(function, arguments)
    assert gradgradcheck(function, arguments)
    assert calls


def test_second_derivatives_where_an_input_depends_on_another():
    def twice(function):
        torch.manual_seed(0)
        x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
        weight = x[:1, :, :1, :1] * torch.ones(3, 1, 1, 1)
        out = function(x, weight, None, torch.tensor(0.5, dtype=torch.float64))
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return first, *torch.autograd.grad(first.square().sum(), x)

    for ours, theirs in zip(twice(soft_attention), twice(lambda *a: plain(*a)[0]), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_of_many_outputs_at_once():
    given = inputs()
    arguments = tuple(given.values())
    features = soft_attention(*arguments)
    many = torch.randn(3, *features.shape, dtype=features.dtype)
    batched = torch.autograd.grad(
        features, arguments, many, is_grads_batched=True, retain_graph=True
    )
    for i in range(3):
        one = torch.autograd.grad(features, arguments, many[i], retain_graph=True)
        for ours, theirs in zip(batched, one, strict=True):
            torch.testing.assert_close(ours[i], theirs)


def test_under_checkpointing(calls):
    given = inputs()
    arguments = tuple(given.values())
    features = checkpoint(lambda *a: soft_attention(*a), *arguments, use_reentrant=False)
    incoming = torch.randn_like(features)
    found = gradients(features, arguments, incoming)
    expected = gradients(plain(*arguments)[0], arguments, incoming)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(calls) == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_only_for_reverse_mode(calls):
    given = inputs()
    arguments = tuple(given.values())
    with torch.no_grad():
        soft_attention(*arguments)
    soft_attention(*(t.detach() for t in arguments))
    soft_attention(*arguments, activation="relu")
    with torch.autocast("cpu", torch.bfloat16):
        soft_attention(*arguments)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(given["x"].detach(), torch.ones_like(given["x"]))
        features = soft_attention(dual, *arguments[1:])
        assert forward_ad.unpack_dual(features).tangent is not None
    torch.func.grad(lambda x: soft_attention(x, *arguments[1:]).sum())(given["x"])
    torch.func.vmap(lambda x: soft_attention(x, *arguments[1:]))(given["x"][None])
    torch.func.jvp(
        lambda x: soft_attention(x, *arguments[1:]), (given["x"],), (torch.ones_like(given["x"]),)
    )
    constants = [t.detach() for t in arguments[1:]]
    torch.jit.trace(lambda x: soft_attention(x, *constants), given["x"])
    for shape in ((3, 1, 1), (5, 1, 1, 1), (1,) * 4):
        gamma = torch.ones(shape, dtype=torch.float64)
        with pytest.raises(ShapeError, match="gamma"):
            soft_attention(*arguments[:3], gamma, aggregate=False)
    assert not calls
    soft_attention(*arguments)
    assert calls


def test_only_for_large_feature_maps(calls, monkeypatch):
    monkeypatch.setattr(backward, "_MIN_BYTES", 5 * 4 * 5 * 3 * 8 + 1)
    soft_attention(*inputs().values())
    assert not calls
    soft_attention(*inputs(batch=6).values())
    assert calls


def test_only_on_the_cpu(calls):
    given = [t.detach().to("meta").requires_grad_() for t in inputs().values()]
    soft_attention(*given).sum().backward()
    assert all(t.grad.shape == t.shape for t in given)
    assert not calls


@pytest.mark.parametrize("size", [(16384,), (128, 128), (16, 32, 32)])
def test_less_memory_than_autograd_in_any_number_of_dimensions(monkeypatch, size):
    peaks = []
    for least in (0, 2**62):
        monkeypatch.setattr(backward, "_MIN_BYTES", least)
        torch.manual_seed(0)
        x = torch.randn(4, 32, *size, requires_grad=True)
        weight = torch.randn(2, 32, *[3] * len(size), requires_grad=True)
        features = soft_attention(x, weight, None, 0.01)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            features.sum().backward()
        changes = [e.nbytes() for e in profiled.profiler.kineto_results.events()
                   if e.name() == "[memory]"]  # fmt: skip
        peaks.append(max(itertools.accumulate(changes)) / (x.numel() * x.element_size()))
    ours, autograd = peaks
    assert ours <= autograd - 0.9


def test_a_product_is_summed_in_pieces_of_as_many_samples_as_fit(monkeypatch):
    a, b = torch.randn(2, 5, 8, 5, 3).unbind()
    for samples, sizes in ((1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (0.5, [1] * 5)):
        monkeypatch.setattr(backward, "_PIECE_BYTES", int(samples * 4 * 8 * 5 * 3))
        with Products() as products:
            summed = backward.dot(a, b, torch.float32)
        assert products.samples == sizes
        assert torch.allclose(summed, (a * b).sum(dim=1, keepdim=True), atol=1e-5)


class Products(TorchDispatchMode):
    """Records the number of samples of each product."""

    def __init__(self):
        super().__init__()
        self.samples = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mul.Tensor:
            self.samples.append(len(args[0]))
        return func(*args, **(kwargs or {}))
