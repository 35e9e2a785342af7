import torch

from ham10000.models.networks import NETWORKS
from ham10000.models.stages import output_shape


def shape_at(name: str, stage: str) -> tuple[int, ...]:
    return output_shape(lambda _: NETWORKS[name].front(stage), (3, 224, 224))


def test_attention_is_where_the_paper_has_it() -> None:
    assert shape_at("vgg16", "block4") == (512, 28, 28)
    assert shape_at("resnet34", "block3") == (128, 28, 28)


def test_sixteen_and_thirty_four_layers() -> None:
    for name, layers in (("vgg16", 16), ("resnet34", 34)):
        network = NETWORKS[name]
        first = next(iter(network.stages))
        with torch.device("meta"):
            front = network.front(first)
            shape = tuple(front(torch.empty(1, 3, 224, 224)).shape[1:])
            rest = network.rest(first, shape, 7, pooled=False)
        weights = [
            key
            for part in (front, rest)
            for key, value in part.named_parameters()
            # A convolution beside a block isn't counted, as in the names of residual networks.
            if value.ndim > 1 and ".skip." not in key
        ]
        assert len(weights) == layers


def test_the_dense_layers_of_vgg16() -> None:
    with torch.device("meta"):
        rest = NETWORKS["vgg16"].rest("block4", (1024, 14, 14), 7, pooled=True)
    shapes = [tuple(p.shape) for p in rest.get_submodule("classifier").parameters() if p.ndim == 2]
    assert shapes == [(4096, 512 * 4 * 4), (4096, 4096), (7, 4096)]
