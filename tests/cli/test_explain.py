from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.utils import save_image

from softattn import wrap_backbone
from softattn.cli import main

pytest.importorskip("matplotlib", reason="needs softattn[plot]")
pytest.importorskip("timm", reason="needs softattn[timm]")

from softattn.cli.explain import explain_files, load_explainer
from softattn.cli.images import read_image

MODEL = "test_resnet"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "photo.jpg"
    save_image(torch.rand(3, 90, 120), path)
    return path


def run(*arguments):
    return main(["explain", *map(str, arguments)])


def test_writes_a_figure_for_each_image(image, tmp_path, capsys):
    second = tmp_path / "second.png"
    Image.new("L", (50, 70), 128).save(second)
    out = tmp_path / "a" / "b"
    assert run(image, second, "--model", MODEL, "--out", out) == 0
    figures = [out / "photo-attention.png", out / "second-attention.png"]
    assert sorted(out.iterdir()) == figures
    assert capsys.readouterr().out.splitlines() == [
        MODEL, "  backbone: untrained, seed 0", "  attention: untrained, seed 0", *map(str, figures)
    ]  # fmt: skip
    width, height = Image.open(figures[0]).size
    assert width > 2 * height > 1000


def test_shows_the_image_that_the_model_sees_and_the_model_s_own_maps(image):
    explainer = load_explainer(MODEL, num_maps=3, seed=5)
    seen, maps = explainer.look(read_image(image))
    assert (seen.shape, maps.shape) == ((3, 160, 160), (3, 5, 5))
    cfg = explainer.model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = explainer.model(((seen - mean) / std)[None], return_maps=True)[1][0]
    torch.testing.assert_close(maps, expected)
    assert 0 <= seen.min() < seen.max() <= 1


@pytest.mark.parametrize("name", [MODEL, "torchvision:resnet18"])
def test_the_image_is_prepared_as_the_library_does(name, image):
    explainer = load_explainer(name, num_maps=1)
    seen, _ = explainer.look(read_image(image))
    if name == MODEL:
        import timm

        config = timm.data.resolve_model_data_config(explainer.model)
        expected = timm.data.create_transform(**config)(read_image(image))
    else:
        import torchvision

        transform = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
        expected = transform(read_image(image))
    cfg = explainer.model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close((seen - mean) / std, expected, atol=0.03, rtol=0)


def test_a_seed_decides_what_no_file_does_and_leaves_ours_alone():
    state = torch.get_rng_state()
    first, same, other = (load_explainer(MODEL, seed=seed).model for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.attention.weight, same.attention.weight)
    assert not torch.equal(first.attention.weight, other.attention.weight)


@pytest.mark.parametrize("wrapped_in", [None, "state_dict", "model"])
def test_weights_of_the_library_s_model(tmp_path, wrapped_in):
    import timm

    model = timm.create_model(MODEL, num_classes=11)
    state = {k: v for k, v in model.state_dict().items() if "num_batches_tracked" not in k}
    file = tmp_path / "weights.pth"
    torch.save({wrapped_in: state} if wrapped_in else state, file)
    explainer = load_explainer(MODEL, weights=file)
    for name, value in explainer.model.backbone.model.state_dict().items():
        if name in state:
            assert torch.equal(value, state[name])
    assert explainer.backbone_from == "weights.pth (without fc.weight, fc.bias)"
    assert explainer.attention_from == "untrained, seed 0"


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_the_whole(tmp_path, suffix):
    model = wrap_backbone(MODEL, num_classes=9, at="layer2", num_maps=4)
    file = tmp_path / f"model.{suffix}"
    if suffix == "pth":
        torch.save(model.state_dict(), file)
    else:
        save = pytest.importorskip("safetensors.torch", reason="needs softattn[hub]").save_file
        save(model.state_dict(), file)
    explainer = load_explainer(MODEL, at="layer2", weights=file, num_maps=4)
    assert (explainer.backbone_from, explainer.attention_from) == (file.name, file.name)
    for name, value in model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(explainer.model.state_dict()[name], value)


def error_of(capsys, *arguments):
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("softattn explain: ")
    return captured.err.removeprefix("softattn explain: ").strip()


def test_weights_of_another_model(image, tmp_path, capsys):
    file = tmp_path / "weights.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), file)
    message = error_of(capsys, image, "--model", MODEL, "--weights", file, "--out", tmp_path / "o")
    assert message.startswith(f"loading {file}: ")
    assert "tensors of the model are missing in the file or have another shape: conv1." in message
    assert message.endswith("The file contains weight, bias. Check that it belongs to this model.")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"nothing",
            "or a file that torch.save wrote and that contains only tensors. It is neither",
        ),
        ([1, 2], "expected a state_dict, a mapping from names to tensors, found list."),
        (
            {"a": 1},
            "expected a state_dict, a mapping from names to tensors, found one with int at 'a'.",
        ),
        (
            Path("x"),
            "or a file that torch.save wrote and that contains only tensors. It is neither",
        ),
    ],
)
def test_weights_that_are_none(image, tmp_path, capsys, content, message):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    assert message in error_of(
        capsys, image, "--model", MODEL, "--weights", file, "--out", tmp_path
    )


def test_what_is_not_there(image, tmp_path, capsys):
    missing, out = tmp_path / "none", ("--out", tmp_path / "out")
    message = error_of(capsys, image, "--model", MODEL, "--weights", missing, *out)
    assert message == f"loading weights: {missing} is not a file."
    message = error_of(capsys, missing, image, "--model", MODEL, *out)
    assert message == f"reading an image: {missing} does not exist."
    assert "test_resnet" in error_of(capsys, image, "--model", "test_resnett", *out)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_image(image, tmp_path, capsys):
    bad, cut = tmp_path / "bad.jpg", tmp_path / "cut.jpg"
    bad.write_text("not an image")
    cut.write_bytes(image.read_bytes()[:500])
    for file in (bad, cut):
        message = error_of(capsys, image, file, "--model", MODEL, "--out", tmp_path / "out")
        assert message.startswith(f"reading an image: {file} is not an image, or is damaged (")
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_name(image, tmp_path):
    twin = tmp_path / "other" / "photo.png"
    twin.parent.mkdir()
    save_image(torch.rand(3, 9, 9), twin)
    with pytest.raises(ValueError, match="would all be written to") as error:
        list(explain_files([image, twin], load_explainer(MODEL), tmp_path / "out"))
    assert str(image) in str(error.value)
    assert "Write them to separate folders." in str(error.value)


def test_figures_lie_beside_the_images_without_touching_them(image, tmp_path):
    before = image.read_bytes()
    assert run(image, "--model", MODEL, "--out", tmp_path) == 0
    assert image.read_bytes() == before


@pytest.mark.slow
def test_real_images(ham10000, tmp_path):
    images = sorted((ham10000 / "HAM10000_images_part_1").glob("*.jpg"))[:3]
    assert run(*images, "--model", "tf_efficientnet_lite0", "--out", tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 3
