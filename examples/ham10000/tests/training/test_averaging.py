import torch

from ham10000.training.averaging import average_weights


def test_the_average_follows_with_a_growing_decay() -> None:
    model = torch.nn.BatchNorm1d(1)
    ema = average_weights(model, 0.7)
    assert ema is not None
    expected = None
    for step, value in enumerate((1.0, 3.0, -2.0, 5.0, 0.5)):
        model.weight.data.fill_(value)
        model.running_mean.fill_(-value)
        model.num_batches_tracked.fill_(step)
        ema.update_parameters(model)
        if expected is None:
            expected = value
        else:
            decay = min(0.7, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * value
        assert abs(ema.module.weight.item() - expected) < 1e-6
        assert abs(ema.module.running_mean.item() + expected) < 1e-6
        assert ema.module.num_batches_tracked.item() == step
    assert average_weights(model, None) is None
