"""Networks as named stages in a row, which can be built on a map of any channels from any on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ham10000.errors import RecipeError, closest

__all__ = ["Network", "Shape", "Stage", "output_shape"]

Stage = Callable[[int], nn.Module]
"""A function from the channels that come in to a module."""

Shape = tuple[int, ...]
"""Of a map: (C, H, W)."""


@dataclass(frozen=True)
class Network:
    """A network that can be built in two parts, with something else between them.

    Example:
        >>> from torch import nn
        >>> from ham10000.models.stages import Network
        >>> network = Network(
        ...     {"one": lambda c: nn.Conv2d(c, 4, 1), "pool": lambda c: nn.MaxPool2d(2)},
        ...     lambda shape, classes: nn.Linear(shape[0], classes),
        ... )
        >>> [name for name, _ in network.front("one").named_children()]
        ['one']
        >>> [name for name, _ in network.rest("one", (8, 6, 6), 7, pooled=False).named_children()]
        ['pool', 'classifier']

    Args:
        stages: by name, in order.
        classifier: from the shape of the last map and the number of classes to a module.
    """

    stages: Mapping[str, Stage]
    classifier: Callable[[Shape, int], nn.Module]

    def front(self, at: str) -> nn.Sequential:
        """Build the stages up to one, that one included, for an image.

        Raises:
            RecipeError: there is no such stage.
        """
        front, channels = nn.Sequential(), 3
        for name in list(self.stages)[: self._place(at) + 1]:
            stage = self.stages[name]
            front.add_module(name, stage(channels))
            channels = output_shape(stage, (channels, 64, 64))[0]
        return front

    def rest(self, at: str, shape: Shape, num_classes: int, *, pooled: bool) -> nn.Sequential:
        """Build the stages after one, and the classifier, for a map of this shape.

        Args:
            at: the last stage that is left out.
            shape: of the map that comes in.
            num_classes: how many scores are wanted.
            pooled: leave out the pooling right after `at`: what comes in is pooled already.

        Raises:
            RecipeError: there is no such stage.
        """
        rest = nn.Sequential()
        for name in list(self.stages)[self._place(at) + 1 :]:
            stage = self.stages[name]
            module = stage(shape[0])
            if pooled and not len(rest) and isinstance(module, nn.MaxPool2d):
                continue
            rest.add_module(name, module)
            shape = output_shape(stage, shape)
        rest.add_module("classifier", self.classifier(shape, num_classes))
        return rest

    def _place(self, at: str) -> int:
        if at not in self.stages:
            raise RecipeError(
                f"building a network: it has no stage {at!r}, as model.at asks for. "
                f"{closest(at, self.stages)}"
            )
        return list(self.stages).index(at)


def output_shape(stage: Stage, shape: Shape) -> Shape:
    """Return the shape of what a stage gives for a map of another, without computing it.

    Example:
        >>> from torch import nn
        >>> from ham10000.models.stages import output_shape
        >>> output_shape(lambda channels: nn.Conv2d(channels, 8, 3, stride=2), (3, 65, 65))
        (8, 32, 32)
    """
    with torch.device("meta"):
        return tuple(stage(shape[0]).eval()(torch.empty(1, *shape)).shape[1:])
