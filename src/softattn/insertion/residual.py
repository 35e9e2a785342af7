"""Attention that lets a network be: x + gamma * a * x, in whatever layout x has."""

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from softattn._validation import finite_number
from softattn.attention import SoftAttention
from softattn.errors import ModelError, ShapeError
from softattn.features import Layout, Reading, TokenGrid, fit_grid, from_nchw, to_nchw
from softattn.functional import Activation, attention_maps
from softattn.insertion.hooks import InputSize, is_reached

__all__ = ["ResidualAttention", "residual_attention"]


def residual_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor,
    activation: Activation = None,
    layout: str = "NCHW",
    grid: tuple[int, int] | None = None,
    num_prefix_tokens: int = 0,
    input_size: tuple[int, int] | None = None,
    stride: tuple[int, bool] | None = None,
) -> tuple[Tensor, Tensor]:
    """Add to a feature map what attention makes of it: x + gamma * a * x, a the summed map.

    Computed as x * (1 + gamma * a) in float32 at least, which at gamma 0 is x to the last bit,
    infinities, NaNs and the signs of zeros too.

    Example:
        >>> import torch
        >>> from softattn.insertion.residual import residual_attention
        >>> x, weight = torch.randn(2, 64, 7, 7), torch.randn(16, 64, 3, 3)
        >>> attended, maps = residual_attention(x, weight, None, torch.tensor(0.0))
        >>> bool((attended == x).all()), maps.shape
        (True, torch.Size([2, 16, 7, 7]))

    Args:
        x: the feature map, in any layout.
        weight: (K, C, kh, kw), as for `softattn.functional.attention_maps`.
        bias: (K,).
        gamma: one element, () or (1,).
        activation: between convolution and softmax; a function, or the name of one.
        layout: how x lies, the value of a `Layout`.
        grid: (H, W) of the tokens, where `input_size` doesn't tell it.
        num_prefix_tokens: P, the tokens in front; they stay as they are.
        input_size: (height, width) of the images that the tokens are of.
        stride: of the grid, and whether it rounds up, as in `TokenGrid`; tried first.

    Returns:
        The shape, dtype and layout of x; and the maps (B, K, H, W), in float32 at least.

    Raises:
        ShapeError: x has another shape, or a number of tokens whose grid isn't known.
    """
    how = Layout(layout)
    if how is Layout.NLC and grid is not None:
        count = int(x.shape[1]) - num_prefix_tokens
        grid = _find_grid(count, grid, input_size, stride)
    # Some networks compute some of their maps in another dtype than their parameters have.
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    nchw = to_nchw(x, how, grid, num_prefix_tokens)
    maps = attention_maps(nchw, weight, bias, activation=activation)
    # Half precision may overflow before the softmax. Such a map says nothing: it is left out.
    summed = torch.nan_to_num(maps.sum(dim=1, keepdim=True))
    scales = from_nchw(1 + gamma * summed, how)
    if num_prefix_tokens:
        scales = F.pad(scales, (0, 0, num_prefix_tokens, 0), value=1.0)
    return (x * scales).to(x.dtype), maps


# A symbolic trace keeps it as one node: the grid is counted, which proxies can't be.
torch.fx.wrap("residual_attention")


def _find_grid(
    count: int,
    grid: tuple[int, int],
    input_size: tuple[int, int] | None,
    stride: tuple[int, bool] | None,
) -> tuple[int, int]:
    if input_size is not None:
        if stride is not None:
            rows, columns = TokenGrid(*stride).size(*input_size)
            if rows * columns == count:
                return rows, columns
        if count != grid[0] * grid[1]:
            found = fit_grid(count, input_size)
            if found is not None:
                return found
    if count == grid[0] * grid[1]:
        return grid
    images = "images of unknown size"
    if input_size is not None:
        images = f"images of {input_size[0]} x {input_size[1]}"
    raise ShapeError(
        f"attending tokens: the grid of {count} tokens of {images} is not known. Attention was "
        f"inserted for a grid of {grid[0]} x {grid[1]}. Insert with an example= of the size that "
        "you use, or call the whole model on images."
    )


class ResidualAttention(SoftAttention):
    """Soft-Attention that lets a network be: x + gamma * a * x, in the layout that x has.

    `insert_attention` builds and places it.

    Example:
        >>> import torch
        >>> from softattn.insertion.residual import ResidualAttention
        >>> from softattn.features import Layout
        >>> attention = ResidualAttention(192, layout=Layout.NLC, grid=(14, 14))
        >>> attention(torch.randn(2, 196, 192)).shape
        torch.Size([2, 196, 192])

    Args:
        in_channels: C, the channels of the feature map.
        num_maps: K, the number of attention maps.
        kernel_size: as in `SoftAttention`.
        gamma: as in `SoftAttention`; here it starts at 0.
        activation: as in `SoftAttention`.
        bias: as in `SoftAttention`.
        layout: how x lies.
        grid: as in `residual_attention`.
        num_prefix_tokens: as in `residual_attention`.
        input_size: what remembers the size of the images of a pass.
        stride: as in `residual_attention`.
        device: where the parameters are.
        dtype: of the parameters.

    Shape:
        - x: (B, C, H, W), (B, H, W, C) or (B, P + H * W, C), and so is what comes out.
        - maps: (B, K, H, W).

    Raises:
        ShapeError: in `forward`, as `residual_attention`.
        ModelError: in `forward`, x isn't one tensor.
    """

    gamma: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        num_maps: int = 16,
        kernel_size: int | tuple[int, int] = 3,
        *,
        gamma: float = 0.0,
        activation: Activation = None,
        bias: bool = True,
        layout: Layout = Layout.NCHW,
        grid: tuple[int, int] | None = None,
        num_prefix_tokens: int = 0,
        input_size: InputSize | None = None,
        stride: tuple[int, bool] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        finite_number(f"building {type(self).__name__}", "gamma", gamma)
        super().__init__(
            in_channels,
            num_maps,
            kernel_size,
            gamma=gamma,
            activation=activation,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.reading = Reading(layout, grid, num_prefix_tokens)
        self.input_size = input_size
        self.stride = stride

    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Add its attention to x; with `return_maps` give (features, maps)."""
        if isinstance(x, (tuple, list, dict)):
            raise ModelError(
                f"attending inside a network: the module gave a {type(x).__name__} in this pass, "
                "and one tensor in the pass in evaluation that attention was inserted after."
            )
        result = residual_attention(
            x,
            self.weight,
            self.bias,
            self.gamma,
            self.activation,
            self.reading.layout.value,
            self.reading.grid,
            self.reading.num_prefix_tokens,
            # A symbolic trace must not keep the size of an earlier pass.
            None
            if self.input_size is None or isinstance(x, torch.fx.Proxy)
            else self.input_size.get(),
            self.stride,
        )
        # The features last: to torchvision's feature extraction, the output of a module is the
        # last node in it.
        maps, features = result[1], result[0]
        return self.emit(features, maps, return_maps)

    def _is_lost(self, model: nn.Module, name: str) -> bool:
        return not is_reached(model, self, name)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # A checkpoint from before the insertion has none of these keys, and nothing is missing.
        if any(key.startswith(prefix) for key in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Give the arguments, for `print(module)`."""
        return f"{super().extra_repr()}, layout={self.reading.layout.value}"
