"""Private names of torch behave as softattn expects."""

import torch
from torch import nn

from softattn import ops


def test_functorch_is_active():
    seen = []

    def function(x):
        seen.append(ops.functorch_is_active())
        return x.sum()

    function(torch.ones(2))
    torch.func.grad(function)(torch.ones(2))
    torch.vmap(function)(torch.ones(2, 2))
    assert seen == [False, True, True]


def test_is_compiled():
    module = nn.Linear(2, 2)
    assert not ops.is_compiled(module)
    assert ops.is_compiled(torch.compile(module, backend="eager"))
    assert not ops.is_compiled(module)
    module.compile(backend="eager")
    assert ops.is_compiled(module)


def test_names_without_the_compiler():
    model = nn.Sequential(nn.ReLU(), torch.compile(nn.Sequential(nn.ReLU()), backend="eager"))
    names = [name for name, _ in torch.compile(model, backend="eager").named_modules()]
    assert [ops.without_compiler(name) for name in names] == ["", "", "0", "1", "1", "1.0"]


class Exporting(nn.Module):
    def forward(self, x):
        return x + 1 if ops.is_exporting() else x - 1


def test_is_exporting():
    module, x = Exporting(), torch.zeros(2)
    assert torch.equal(torch.export.export(module, (x,)).module()(x), x + 1)
    assert torch.equal(module(x), x - 1)


def test_children_that_occur_twice():
    shared = nn.ReLU()
    module = nn.Sequential(shared, shared)
    module.register_module("nothing", None)
    assert ops.children(module) == {"0": shared, "1": shared}


def test_buffers():
    module = nn.BatchNorm2d(2)
    module.register_buffer("other", torch.zeros(1), persistent=False)
    assert ops.is_persistent(module, "running_mean")
    assert not ops.is_persistent(module, "other")


def test_hooks_in_their_order():
    module, called = nn.Identity(), []
    for i in range(2):
        module.register_forward_hook(lambda *_, i=i: called.append(i))
    module.register_forward_pre_hook(lambda *_: called.append("pre"))
    assert len(ops.forward_pre_hooks(module)) == 1
    for hook in ops.forward_hooks(module).values():
        hook(module, (), None)
    assert called == [0, 1]
    ops.forward_hooks(module).popitem()
    module(None)
    assert called == [0, 1, "pre", 0]
