"""ResidualAttention: x + gamma * a * x, in every layout of x."""

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from softattn._validation import finite_number
from softattn.attention import SoftAttention
from softattn.errors import ModelError
from softattn.features import Layout, MapLayout, from_nchw
from softattn.functional import Activation, attention_maps
from softattn.insertion.hooks import InputSize, is_reached

__all__ = ["ResidualAttention", "residual_attention"]

_NCHW = MapLayout(Layout.NCHW)


def residual_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor,
    activation: Activation = None,
    map_layout: MapLayout = _NCHW,
    image: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return x + gamma * a * x, where a is the sum of the attention maps, and the maps.

    Computed as x * (1 + gamma * a) in float32 at least. With gamma 0 the result is x to the last
    bit, including infinities, NaNs and signs of zeros.

    Example:
        >>> import torch
        >>> from softattn.insertion.residual import residual_attention
        >>> x, weight = torch.randn(2, 64, 7, 7), torch.randn(16, 64, 3, 3)
        >>> attended, maps = residual_attention(x, weight, None, torch.tensor(0.0))
        >>> bool((attended == x).all()), maps.shape
        (True, torch.Size([2, 16, 7, 7]))

    Args:
        x: the feature map, in any layout. Prefix tokens are returned unchanged.
        weight: (K, C, kh, kw), as for `softattn.functional.attention_maps`.
        bias: (K,).
        gamma: one element.
        activation: between convolution and softmax; a function or its name.
        map_layout: the layout of x.
        image: (height, width) of the images that x is computed from, if they are known; for
            tokens.

    Returns:
        The attended features, with the shape, dtype and layout of x; and the maps (B, K, H, W), in
        float32 at least.

    Raises:
        ShapeError: x has another shape, or a number of tokens whose grid is not known.
    """
    nchw = map_layout.to_nchw(x, image)
    # Some networks compute maps in another dtype than that of their parameters.
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    maps = attention_maps(nchw, weight, bias, activation=activation)
    # In half precision the convolution can overflow. Such a map is left out.
    summed = torch.nan_to_num(maps.sum(dim=1, keepdim=True))
    scales = from_nchw(1 + gamma * summed, map_layout.layout)
    if map_layout.num_prefix_tokens:
        scales = F.pad(scales, (0, 0, map_layout.num_prefix_tokens, 0), value=1.0)
    return (x * scales).to(x.dtype), maps


# One node in a symbolic trace, since it computes with sizes, which are unknown in a trace.
torch.fx.wrap("residual_attention")


class ResidualAttention(SoftAttention):
    """Soft-Attention that is added to its input: x + gamma * a * x, in the layout of x.

    `insert_attention` builds and inserts it.

    Example:
        >>> import torch
        >>> from softattn.features import Layout, MapLayout, TokenGrid
        >>> from softattn.insertion.residual import ResidualAttention
        >>> layout = MapLayout(Layout.NLC, TokenGrid(14, 14, stride=16))
        >>> attention = ResidualAttention(192, map_layout=layout)
        >>> attention(torch.randn(2, 196, 192)).shape
        torch.Size([2, 196, 192])

    Args:
        in_channels: C, the channels of the feature map.
        num_maps: K, the number of attention maps.
        kernel_size: as in `SoftAttention`.
        gamma: as in `SoftAttention`, but initially 0 by default.
        activation: as in `SoftAttention`.
        bias: as in `SoftAttention`.
        map_layout: the layout of x.
        input_size: record of the size of the images of a pass, for tokens.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Shape:
        - x: (B, C, H, W), (B, H, W, C) or (B, P + H * W, C).
        - output: the shape of x.
        - maps: (B, K, H, W).

    Raises:
        ShapeError: in `forward`, as `residual_attention`.
        ModelError: in `forward`, x is not one tensor.
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
        map_layout: MapLayout = _NCHW,
        input_size: InputSize | None = None,
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
        self.map_layout = map_layout
        self.input_size = input_size

    def forward(self, x: Tensor, return_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return the attended features; with `return_maps` (features, maps)."""
        if isinstance(x, (tuple, list, dict)):
            raise ModelError(
                f"applying inserted attention: the module returned a {type(x).__name__} in this "
                "pass, and one tensor in the dry run in eval mode before the insertion."
            )
        image = None
        # A symbolic trace must not keep the size of an earlier pass.
        if self.input_size is not None and not isinstance(x, torch.fx.Proxy):
            image = self.input_size.get()
        result = residual_attention(
            x,
            self.weight,
            self.bias,
            self.gamma,
            self.activation,
            self.map_layout,
            image,
        )
        # The features last: torchvision's feature extraction takes the last node inside a module
        # as its output.
        maps, features = result[1], result[0]
        return self.emit(features, maps, return_maps)

    def _is_lost(self, model: nn.Module, name: str) -> bool:
        return not is_reached(model, self, name)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *args: Any,
    ) -> None:
        # A checkpoint from before the insertion has none of these keys, and is complete.
        if any(key.startswith(prefix) for key in state_dict):
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        elif local_metadata.get("assign_to_params_buffers") and self.weight.is_meta:
            # Assignment takes the other modules from the meta device. Where to is unknown here,
            # since torch passes only keys with this prefix.
            device = torch.get_default_device()
            if device.type != "meta":
                self.to_empty(device=device)
                self.reset_parameters()

    def extra_repr(self) -> str:
        """Return the arguments, for `print(module)`."""
        return f"{super().extra_repr()}, layout={self.map_layout.layout.value}"
