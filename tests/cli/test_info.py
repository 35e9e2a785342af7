import pytest
import torch

from softattn import wrap_backbone
from softattn.cli import main
from softattn.cli.info import part_costs


def test_costs_are_those_counted_by_hand():
    model = wrap_backbone("torchvision:resnet18", num_classes=7, at="layer1", num_maps=4)
    backbone, attention, head = part_costs(model)
    positions = 56 * 56
    # A stem of 7 x 7 at 112 x 112 positions, and four convolutions of 3 x 3.
    assert backbone.multiply_adds == 3 * 64 * 49 * 112**2 + 4 * 64 * 64 * 9 * positions
    # Convolutions without bias, and a scale and a shift in each of five norms.
    assert backbone.parameters == 3 * 64 * 49 + 4 * 64 * 64 * 9 + 5 * 2 * 64
    assert attention.multiply_adds == 64 * 4 * 9 * positions
    assert attention.parameters == 64 * 4 * 9 + 4 + 1
    assert (head.parameters, head.multiply_adds) == (64 * 7 + 7, 64 * 7)


def test_the_model_stays_as_it_was():
    with torch.device("meta"):
        model = wrap_backbone("torchvision:resnet18", num_classes=7).train()
    part_costs(model)
    assert model.training


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "torchvision:resnet18",
            [
                "  input        3 x 224 x 224",
                "  attention at layer4, by forward, truncated",
                "  feature map  512 x 7 x 7, one position for 32 x 32 pixels",
                "  maps         4 x 7 x 7",
                "  dropped      fc",
            ],
        ),
        # Its constructor doesn't work on the meta device.
        ("torchvision:regnet_y_400mf", ["  attention at trunk_output, by forward, truncated"]),
    ],
)
def test_the_command(name, lines, capsys):
    assert main(["info", name, "--num-classes", "7", "--num-maps", "4"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0] == name
    assert set(lines) <= set(output)
    assert all(len(line) <= 80 for line in output)
    total = [int(number.replace(",", "")) for number in output[-1].split()[1:]]
    parts = [[int(n.replace(",", "")) for n in line.split()[1:]] for line in output[-4:-1]]
    assert total == [sum(column) for column in zip(*parts, strict=True)]


def test_at_an_inner_module(capsys):
    assert main(["info", "torchvision:resnet18", "--at", "layer2"]) == 0
    output = capsys.readouterr().out
    assert "attention at layer2," in output
    assert "128 x 28 x 28, one position for 8 x 8 pixels" in output
    assert "dropped      layer3, layer4, fc" in output


def test_a_bare_name_is_printed_with_its_library(capsys):
    pytest.importorskip("timm", reason="needs softattn[timm]")
    assert main(["info", "test_resnet"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "timm:test_resnet"
    assert main(["info", "googlenet"]) == 0  # timm has no such model
    assert capsys.readouterr().out.splitlines()[0] == "torchvision:googlenet"


def test_an_unknown_name(capsys):
    assert main(["info", "torchvision:resnet17"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("softattn info: building torchvision:resnet17: torchvision has no")
    assert "resnet18" in error
