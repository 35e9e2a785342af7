import io
import json
import zipfile

import numpy as np
import pytest
import torch

from softattn import ArgumentTypeError, MissingExtraError, WeightsError
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
    """Return the text of the error, after checking that the module is unchanged."""
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
        f"(8, 3, 3, 1, 4): {first}kernel_conv3d:0, {second}kernel_conv3d:0. Choose one with "
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
        "in_channels=8 and num_maps=4 require. It has: dense/bias (2,), dense/kernel (4, 2)."
    )
    many = save(tmp_path / "many.h5", {f"w{i:02}": np.zeros(1) for i in range(25)})
    assert message_of(many).endswith("w18 (1,), w19 (1,), and 5 more.")
    assert message_of(save(tmp_path / "empty.h5", {})).endswith("It has: nothing.")
    assert message_of({}).endswith("It has: nothing.")


def test_weights_of_another_shape_say_what_to_build(tmp_path):
    assert message_of(arrays(16, 4)) == (
        "loading the authors' weights: the mapping has no kernel of shape (8, 3, 3, 1, 4), which "
        "in_channels=8 and num_maps=4 require. It has kernel_conv3d:0 (16, 3, 3, 1, 4): build the "
        "module with in_channels=16, num_maps=4."
    )


def test_a_kernel_without_its_bias():
    incomplete = {"a/kernel_conv3d": np.zeros((8, 3, 3, 1, 4)), "b/bias_conv3d": np.zeros(4)}
    assert message_of(incomplete) == (
        "loading the authors' weights: the mapping has the kernel 'a/kernel_conv3d' but no bias "
        "of shape (4,) in its group. It has: a/kernel_conv3d (8, 3, 3, 1, 4), b/bias_conv3d (4,)."
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


@pytest.mark.parametrize("kind", ["h5", "keras"])
def test_no_damage_ends_in_a_foreign_error(tmp_path, kind):
    file = save(tmp_path / "model.weights.h5", arrays(prefix="layers/attention/"))
    if kind == "keras":
        with zipfile.ZipFile(tmp_path / "model.keras", "w", zipfile.ZIP_LZMA) as archive:
            archive.write(file, file.name)
            archive.writestr("config.json", "{}")
        file = tmp_path / "model.keras"
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            load_weights(KerasSoftAttention(8, 4), file)
        except WeightsError:
            refused += 1
    assert refused > 30


def test_an_archive_that_is_not_keras(tmp_path):
    file = tmp_path / "model.keras"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("something.txt", "else")
    assert message_of(file) == (
        f"loading the authors' weights: the archive {file} contains no model.weights.h5, so it "
        "isn't a .keras file. It contains: something.txt."
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


# A model with layers of one shape, as Keras 3 saves it: groups are numbered by class and order.
KERAS_3 = {
    "layers/soft_attention": "soft_attention_1",
    "layers/conv2d": "conv2d",
    "layers/soft_attention_1": "soft_attention_2",
    "layers/functional": "inner_model",
    "layers/functional/layers/soft_attention": "inside",
    "layers/soft_attention_2": "sa_high",
}
# As Keras 2 saves it, and Keras 3 in the old format: groups are named after layers.
LEGACY = {
    "soft_attention_1": "soft_attention_1/soft_attention_1",
    "soft_attention_2": "soft_attention_2/soft_attention_2",
    "inside": "inner_model/inside",
    "sa_high": "sa_high/sa_high",
}
BIAS = {"soft_attention_1": 1.0, "soft_attention_2": 2.0, "inside": 3.0, "sa_high": 4.0}
CONFIG = {
    "class_name": "Functional",
    "config": {
        "name": "whole",
        "layers": [
            {"class_name": "InputLayer", "config": {"name": "input_layer"}},
            {"class_name": "SoftAttention", "config": {"name": "soft_attention_1"}},
            {"class_name": "Conv2D", "config": {"name": "conv2d"}},
            {"class_name": "SoftAttention", "config": {"name": "soft_attention_2"}},
            {
                "class_name": "Functional",
                "config": {
                    "name": "inner_model",
                    "layers": [
                        {"class_name": "InputLayer", "config": {"name": "input_layer_1"}},
                        {"class_name": "SoftAttention", "config": {"name": "inside"}},
                    ],
                },
            },
            {"class_name": "SoftAttention", "config": {"name": "sa_high"}},
        ],
    },
}


def keras_3(path, *, named=True):
    with h5py.File(path, "w") as file:
        for group, name in KERAS_3.items():
            variables = file.create_group(f"{group}/vars")
            if named:
                variables.attrs["name"] = name
            if name in BIAS:
                variables["0"] = arrays()["kernel_conv3d:0"]
                variables["1"] = np.full(4, BIAS[name], "f")
    return path


def archive(path, *, config=CONFIG, **options):
    content = io.BytesIO()
    keras_3(content, **options)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", content.getvalue())
    return path


def legacy(path, prefix="model_weights/"):
    contents = {}
    for name, group in LEGACY.items():
        contents[f"{prefix}{group}/kernel_conv3d"] = arrays()["kernel_conv3d:0"]
        contents[f"{prefix}{group}/bias_conv3d"] = np.full(4, BIAS[name], "f")
    return save(path, contents)


FILES = {
    "named.weights.h5": keras_3,
    "named.keras": archive,
    "configured.keras": lambda path: archive(path, named=False),
    "whole.h5": legacy,
    "weights.h5": lambda path: legacy(path, prefix=""),
}


@pytest.mark.parametrize("layer", BIAS)
@pytest.mark.parametrize("file", FILES)
def test_a_layer_is_found_by_its_own_name(tmp_path, file, layer):
    module = load_weights(KerasSoftAttention(8, 4), FILES[file](tmp_path / file), layer=layer)
    assert module.bias.tolist() == [BIAS[layer]] * 4


@pytest.mark.parametrize("file", FILES)
def test_a_layer_is_found_by_the_name_of_its_model(tmp_path, file):
    path = FILES[file](tmp_path / file)
    module = load_weights(KerasSoftAttention(8, 4), path, layer="inner_model")
    assert module.bias.tolist() == [BIAS["inside"]] * 4


@pytest.mark.parametrize("file", FILES)
def test_a_group_is_not_a_layer(tmp_path, file):
    message = message_of(FILES[file](tmp_path / file), layer="soft_attention")
    assert "has no layer named 'soft_attention'. It has: " in message
    assert all(name in message for name in BIAS)


def test_several_layers_are_listed_by_name(tmp_path):
    file = keras_3(tmp_path / "a.weights.h5")
    assert message_of(file) == (
        f"loading the authors' weights: {file} has 4 layers with a kernel of shape "
        "(8, 3, 3, 1, 4): inside (layers/functional/layers/soft_attention/vars/0), "
        "soft_attention_1 (layers/soft_attention/vars/0), "
        "soft_attention_2 (layers/soft_attention_1/vars/0), "
        "sa_high (layers/soft_attention_2/vars/0). "
        "Choose one with layer=, for example layer='inside'."
    )


def test_a_file_without_names_is_read_by_groups(tmp_path):
    file = keras_3(tmp_path / "a.weights.h5", named=False)
    module = load_weights(KerasSoftAttention(8, 4), file, layer="layers/soft_attention_1")
    assert module.bias.tolist() == [BIAS["soft_attention_2"]] * 4
    assert message_of(file, layer="soft_attention_1") == (
        f"loading the authors' weights: {file} has no layer named 'soft_attention_1'. It has: "
        "layers/functional/layers/soft_attention, layers/soft_attention, layers/soft_attention_1, "
        "layers/soft_attention_2. The file stores no names of layers: these are groups, numbered "
        "by class in the order of the model's layers."
    )
    assert message_of(file).endswith("layer='layers/functional/layers/soft_attention'.")


@pytest.mark.parametrize("config", [{}, [], None, {"config": {"layers": [{"class_name": "A"}, 3]}}])
def test_an_archive_with_another_configuration(tmp_path, config):
    file = archive(tmp_path / "a.keras", config=config, named=False)
    module = load_weights(KerasSoftAttention(8, 4), file, layer="layers/soft_attention_2")
    assert module.bias.tolist() == [BIAS["sa_high"]] * 4
    named = archive(tmp_path / "b.keras", config=config)
    module = load_weights(KerasSoftAttention(8, 4), named, layer="sa_high")
    assert module.bias.tolist() == [BIAS["sa_high"]] * 4


def test_the_outer_name_counts_first():
    contents = {}
    for group, value in {"a": 1.0, "b/a": 2.0}.items():
        contents[f"{group}/kernel_conv3d"] = arrays()["kernel_conv3d:0"]
        contents[f"{group}/bias_conv3d"] = np.full(4, value)
    for layer, value in {"a": 1.0, "b": 2.0, "b/a": 2.0}.items():
        module = load_weights(KerasSoftAttention(8, 4), contents, layer=layer)
        assert module.bias.tolist() == [value] * 4
    assert message_of(contents).endswith("for example layer='a'.")


def test_an_optimizer_has_moments_of_the_same_shape(tmp_path):
    moments = {"optimizer/vars/1": np.zeros((8, 3, 3, 1, 4)), "optimizer/vars/2": np.zeros(4)}
    file = save(tmp_path / "a.weights.h5", moments | arrays(prefix="layers/soft_attention/vars/"))
    module = load_weights(KerasSoftAttention(8, 4), file)
    assert np.array_equal(module.bias.detach(), arrays()["bias_conv3d:0"])


def bfloat16(values):
    """The two bytes of each value, as Keras stores them."""
    return (values.view(np.uint32) >> 16).astype(np.uint16).view("V2")


@pytest.mark.parametrize("convert", [bfloat16, lambda values: values.astype("f2")])
@pytest.mark.parametrize("stored", [True, False])
def test_half_precision(tmp_path, convert, stored):
    contents = {name: convert(values) for name, values in arrays().items()}
    source = save(tmp_path / "a.h5", contents) if stored else contents
    module = load_weights(KerasSoftAttention(8, 4), source)
    expected = torch.tensor(arrays()["bias_conv3d:0"])
    torch.testing.assert_close(module.bias.detach(), expected, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f8", ">f2", "g", ">i2", "u8", "?"])
@pytest.mark.parametrize("stored", [True, False])
def test_any_real_dtype(tmp_path, dtype, stored):
    contents = {name: (4 * values).astype(dtype) for name, values in arrays().items()}
    source = save(tmp_path / "a.h5", contents) if stored and dtype != "g" else contents
    module = load_weights(KerasSoftAttention(8, 4), source)
    expected = contents["bias_conv3d:0"].astype("f")
    assert np.array_equal(module.bias.detach(), expected)


@pytest.mark.parametrize(("dtype", "named"), [("c8", "complex64"), ("S2", "|S2")])
def test_a_dtype_that_is_not_real(dtype, named):
    contents = {name: values.astype(dtype) for name, values in arrays().items()}
    assert message_of(contents) == (
        f"loading the authors' weights: the mapping has 'kernel_conv3d:0' with the dtype {named}, "
        "expected real numbers. Convert it to float32 first."
    )


class Variable:
    """Stand-in for a Keras variable on some device, which may require a gradient."""

    def __init__(self, values):
        self.value = torch.tensor(values, requires_grad=True)
        self.shape = tuple(values.shape)

    def __getitem__(self, key):
        return self.value[key]

    def __array__(self, dtype=None):
        raise RuntimeError("Can't call numpy() on a Tensor that requires grad")

    def numpy(self):
        return self.value.detach().numpy()


def test_keras_variables_and_parameters():
    for convert in (Variable, lambda values: torch.nn.Parameter(torch.tensor(values))):
        contents = {f"sa_high/{name}": convert(values) for name, values in arrays().items()}
        module = load_weights(KerasSoftAttention(8, 4), contents, layer="sa_high")
        assert np.array_equal(module.bias.detach(), arrays()["bias_conv3d:0"])
        assert module.bias.is_leaf


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values: values.to(torch.complex64),
        lambda values: values.to("meta"),
        lambda values: values.to_sparse(),
        lambda values: torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_tensors_that_are_not_dense_and_real_are_refused(spoil):
    contents = {name: torch.tensor(values) for name, values in arrays().items()}
    module = KerasSoftAttention(8, 4)
    before = module.weight.detach().clone()
    for name in contents:
        with pytest.raises(WeightsError, match=f"{name}.*expected a dense one of real numbers"):
            load_weights(module, {**contents, name: spoil(contents[name])})
        assert torch.equal(module.weight, before)


def test_a_name_that_is_not_text_is_refused():
    with pytest.raises(ArgumentTypeError, match=r"found the name 1 \(int\)"):
        load_weights(KerasSoftAttention(8, 4), {1: np.zeros(4)})


@pytest.mark.parametrize("source", [[np.zeros(4)], None, 3])
def test_a_source_of_another_kind(source):
    with pytest.raises(ArgumentTypeError, match="expected a path or a mapping of arrays, found"):
        load_weights(KerasSoftAttention(8, 4), source)
    with pytest.raises(ArgumentTypeError, match=r"found \w+ for 'bias_conv3d'"):
        load_weights(KerasSoftAttention(8, 4), {"bias_conv3d": source})
