import zipfile

import numpy as np
import pytest
import torch

from softattn import MissingExtraError, WeightsError
from softattn.keras import KerasSoftAttention, load_weights

h5py = pytest.importorskip("h5py", reason="needs softattn[keras]")


def arrays(channels=8, num_maps=4, prefix=""):
    rng = np.random.default_rng(channels)
    return {
        f"{prefix}kernel_conv3d:0": rng.normal(size=(channels, 3, 3, 1, num_maps)).astype("f"),
        f"{prefix}bias_conv3d:0": rng.normal(size=num_maps).astype("f"),
    }


def save(path, contents):
    with h5py.File(path, "w") as file:
        for name, array in contents.items():
            file[name] = array
    return path


def message_of(source, **options):
    """The text of the error, after a check that the module is as it was."""
    layer = KerasSoftAttention(8, 4)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_weights(layer, source, **options)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
    assert isinstance(error.value, ValueError)
    return str(error.value)


def test_one_layer_among_many_by_its_shape(tmp_path):
    contents = {"model_weights/conv/conv/kernel:0": np.zeros((3, 3, 3, 8))}
    contents |= arrays(16, 4, "model_weights/soft_attention/soft_attention/")
    contents |= arrays(8, 4, "model_weights/soft_attention_1/soft_attention_1/")
    layer = KerasSoftAttention(8, 4)
    load_weights(layer, save(tmp_path / "IRV2+SA.hdf5", contents))
    assert np.array_equal(layer.bias.detach(), arrays(8, 4)["bias_conv3d:0"])


def test_two_layers_of_one_shape_need_a_name(tmp_path):
    first = "model_weights/soft_attention/soft_attention/"
    second = "model_weights/soft_attention_1/soft_attention_1/"
    contents = arrays(8, 4, first) | {n: a + 1 for n, a in arrays(8, 4, second).items()}
    file = save(tmp_path / "model.h5", contents)
    assert message_of(file) == (
        f"loading the authors' weights: {file} has 2 layers with a kernel of shape "
        f"(8, 3, 3, 1, 4): {first}kernel_conv3d:0, {second}kernel_conv3d:0. Say which with "
        "layer=, for example layer='soft_attention'."
    )
    layer = KerasSoftAttention(8, 4)
    load_weights(layer, file, layer="soft_attention_1")
    assert np.array_equal(layer.bias.detach(), arrays(8, 4)["bias_conv3d:0"] + 1)
    assert message_of(file, layer="soft_attention_2") == (
        f"loading the authors' weights: {file} has no layer named 'soft_attention_2'. "
        "It has: soft_attention, soft_attention_1."
    )


def test_a_name_of_their_own_goes_before_a_shape_alone(tmp_path):
    contents = {"layers/a/vars/0": np.zeros((8, 3, 3, 1, 4)), "layers/a/vars/1": np.zeros(4)}
    layer = KerasSoftAttention(8, 4)
    load_weights(layer, save(tmp_path / "a.h5", contents | arrays(prefix="layers/b/")))
    assert np.array_equal(layer.bias.detach(), arrays()["bias_conv3d:0"])


def test_a_file_without_the_layer_lists_what_it_has(tmp_path):
    file = save(tmp_path / "a.h5", {"dense/kernel": np.zeros((4, 2)), "dense/bias": np.zeros(2)})
    assert message_of(file) == (
        f"loading the authors' weights: {file} has no kernel of shape (8, 3, 3, 1, 4), which "
        "in_channels=8 and num_maps=4 need. It has: dense/bias (2,), dense/kernel (4, 2)."
    )
    many = save(tmp_path / "many.h5", {f"w{i:02}": np.zeros(1) for i in range(25)})
    assert message_of(many).endswith("w18 (1,), w19 (1,), and 5 more.")
    assert message_of(save(tmp_path / "empty.h5", {})).endswith("It has: nothing.")
    assert message_of({}).endswith("It has: nothing.")


def test_weights_of_another_shape_say_what_to_build(tmp_path):
    assert message_of(arrays(16, 4)) == (
        "loading the authors' weights: the mapping has no kernel of shape (8, 3, 3, 1, 4), which "
        "in_channels=8 and num_maps=4 need. It has kernel_conv3d:0 (16, 3, 3, 1, 4): build the "
        "module with in_channels=16, num_maps=4."
    )


def test_a_kernel_without_its_bias():
    incomplete = {"a/kernel_conv3d": np.zeros((8, 3, 3, 1, 4)), "b/bias_conv3d": np.zeros(4)}
    assert message_of(incomplete) == (
        "loading the authors' weights: the mapping has the kernel 'a/kernel_conv3d' but no bias "
        "of shape (4,) beside it. It has: a/kernel_conv3d (8, 3, 3, 1, 4), b/bias_conv3d (4,)."
    )


@pytest.mark.parametrize("content", [b"", b"these are no weights", b"\x89HDF\r\n\x1a\n cut short"])
def test_a_file_that_is_not_hdf5(tmp_path, content):
    file = tmp_path / "weights.h5"
    file.write_bytes(content)
    message = message_of(file)
    assert f"{file} is neither an HDF5 file nor a .keras archive, or it is damaged" in message
    assert "Keras writes these with model.save_weights(...) and model.save(...)." in message


def test_a_file_that_is_cut_short(tmp_path):
    whole = save(tmp_path / "whole.h5", arrays()).read_bytes()
    file = tmp_path / "cut.h5"
    file.write_bytes(whole[: len(whole) // 2])
    assert "it is damaged" in message_of(file)


def test_an_archive_that_is_not_keras(tmp_path):
    file = tmp_path / "model.keras"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("something.txt", "else")
    assert message_of(file) == (
        f"loading the authors' weights: the archive {file} holds no model.weights.h5, so it isn't "
        "a .keras file. It holds: something.txt."
    )


def test_a_path_that_leads_nowhere(tmp_path):
    assert message_of(tmp_path / "no.h5").startswith(
        f"loading the authors' weights: {tmp_path / 'no.h5'} is no such file. A file is needed:"
    )
    assert f"{tmp_path} is a folder. A file is needed" in message_of(str(tmp_path))


def test_without_h5py(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingExtraError) as error:
        load_weights(KerasSoftAttention(8), "weights.h5")
    assert str(error.value) == (
        "reading a Keras file needs h5py, which is not installed. "
        "Install it with: pip install 'softattn[keras]'"
    )
    assert isinstance(error.value, ImportError)
