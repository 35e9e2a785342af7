import torch
from torch import nn

from ham10000.models import build_model
from ham10000.recipe import ModelRecipe
from ham10000.training.session import convert_sync_norms


@torch.no_grad()
def test_synchronized_norms_keep_the_activations_in_them() -> None:
    torch.manual_seed(0)
    recipe = ModelRecipe("timm:tf_efficientnet_lite0", attention=True, block="plain")
    model, images = build_model(recipe, size=64).eval(), torch.randn(2, 3, 64, 64)
    before = model(images)
    model = convert_sync_norms(model)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    assert torch.equal(model(images), before)
