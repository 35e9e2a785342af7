"""What makes class scores of a feature map."""

from torch import Tensor, nn

from softattn.errors import ShapeError

__all__ = ["ClassifierHead"]


class ClassifierHead(nn.Module):
    """One linear layer on a feature map, pooled or flattened.

    Example:
        >>> import torch
        >>> from softattn.heads import ClassifierHead
        >>> head = ClassifierHead(64, num_classes=7)
        >>> head(torch.randn(2, 64, 5, 9)).shape
        torch.Size([2, 7])
        >>> ClassifierHead(64, num_classes=7, size=(4, 4)).fc.in_features
        1024

    Args:
        in_channels: C.
        num_classes: the number of scores.
        size: H and W of the map, to flatten it. Otherwise its mean over all positions is taken,
            and any size will do.
        drop_rate: the probability with which dropout zeroes a value before the linear layer.

    Shape:
        - x: (B, C, H, W).
        - output: (B, num_classes).

    Raises:
        ShapeError: in `forward`, a map to be flattened is of another size.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        size: tuple[int, int] | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.size = size
        self.drop = nn.Dropout(drop_rate)
        positions = 1 if size is None else size[0] * size[1]
        self.fc = nn.Linear(in_channels * positions, num_classes)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Give class scores, or with `pre_logits` what they are computed from."""
        if self.size is None:
            x = x.mean(dim=(2, 3))
        elif x.shape[2:] != self.size:
            raise ShapeError(
                f"flattening a feature map: this head was built for {self.size[0]} x "
                f"{self.size[1]} positions, found {x.shape[2]} x {x.shape[3]}. Give it images of "
                'the size that it was built for (input_size=), or build it with head="pool".'
            )
        else:
            x = x.flatten(1)
        x = self.drop(x)
        scores: Tensor = x if pre_logits else self.fc(x)
        return scores
