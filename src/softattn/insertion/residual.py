"""Inserted modules: Soft-Attention or any other attention, with a factor that starts at 0."""

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from softattn._validation import check_finite, parameter_factory
from softattn.attention import SoftAttentionNd
from softattn.errors import ModelError, ShapeError
from softattn.features import Layout, MapLayout, from_nchw
from softattn.functional import Activation, attention_maps
from softattn.insertion.hooks import InputSize, is_reached, join

__all__ = ["GatedBlock", "ResidualAttention", "gate", "residual_attention"]

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
        x: The feature map, in any layout. Prefix tokens are returned unchanged.
        weight: (K, C, kh, kw), or (K, C, kd, kh, kw) for volumes, as for
            `softattn.functional.attention_maps`.
        bias: (K,).
        gamma: One element.
        activation: Between convolution and softmax; a function or its name.
        map_layout: The layout of x.
        image: (height, width) of the images that x is computed from, if they are known; for
            tokens.

    Returns:
        The attended features, with the shape, dtype and layout of x; and the maps (B, K, H, W), or
        (B, K, D, H, W) for volumes, in float32 at least.

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


def gate(
    x: Tensor,
    nchw: Tensor,
    attended: Tensor,
    gamma: Tensor,
    map_layout: MapLayout = _NCHW,
) -> Tensor:
    """Return x + gamma * (attended - x), in the layout of x.

    With gamma 0 the result is x to the last bit, including infinities, NaNs and signs of zeros,
    whatever the attended features are. Elements with a non-finite difference stay unchanged.

    Example:
        >>> import torch
        >>> from softattn.insertion.residual import gate
        >>> x, attended = torch.tensor([[[[1.0, -0.0]]]]), torch.tensor([[[[3.0, torch.inf]]]])
        >>> gate(x, x, attended, torch.tensor(0.0))
        tensor([[[[1., -0.]]]])
        >>> gate(x, x, attended, torch.tensor(0.5))
        tensor([[[[2., -0.]]]])

    Args:
        x: The feature map, in any layout. Prefix tokens are returned unchanged.
        nchw: x with channels first and without prefix tokens.
        attended: The output of the attention, with channels first.
        gamma: One element.
        map_layout: The layout of x.

    Raises:
        ShapeError: The shape of the attended features differs from that of the map.
    """
    if attended.shape != nchw.shape:
        raise ShapeError(
            f"applying inserted attention: the block returned {tuple(attended.shape)} for a map "
            f"{tuple(nchw.shape)}, and must keep the shape."
        )
    difference = torch.nan_to_num(nchw - attended, nan=0.0, posinf=0.0, neginf=0.0)
    difference = from_nchw(difference, map_layout.layout)
    if map_layout.num_prefix_tokens:
        difference = F.pad(difference, (0, 0, map_layout.num_prefix_tokens, 0))
    # Adding 0.0 turns -0.0 into 0.0. Subtracting 0.0 keeps x = -0.0, which adding 0.0 would not.
    return (x - (gamma * difference + 0.0)).to(x.dtype)


def _to_nchw(x: Tensor, map_layout: MapLayout, image: tuple[int, int] | None) -> Tensor:
    return map_layout.to_nchw(x, image)


# One node each in a symbolic trace, since they use sizes, which are unknown in a trace.
torch.fx.wrap("residual_attention")
torch.fx.wrap("gate")
torch.fx.wrap("_to_nchw")


def _image(x: Any, input_size: InputSize | None) -> tuple[int, int] | None:
    """Return the size of the images of this pass, after checking the output of the module."""
    if isinstance(x, (tuple, list, dict)):
        raise ModelError(
            f"applying inserted attention: the module returned a {type(x).__name__} in this "
            "pass, and one tensor in the dry run in eval mode before the insertion."
        )
    # A symbolic trace must not keep the size of an earlier pass.
    if input_size is None or isinstance(x, torch.fx.Proxy):
        return None
    return input_size.get()


class ResidualAttention(SoftAttentionNd):
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
        kernel_size: As in `SoftAttention`, or in `SoftAttention3d` for volumes.
        gamma: As in `SoftAttention`, but initially 0 by default.
        activation: As in `SoftAttention`.
        bias: As in `SoftAttention`.
        map_layout: The layout of x.
        input_size: Record of the size of the images of a pass, for tokens.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Shape:
        - x: (B, C, H, W), (B, H, W, C), (B, P + H * W, C), (B, C, D, H, W) or (B, D, H, W, C).
        - output: the shape of x.
        - maps: (B, K, H, W), or (B, K, D, H, W) for volumes.

    Raises:
        ShapeError: In `forward`, as `residual_attention`.
        ModelError: In `forward`, x is not one tensor.
    """

    gamma: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        num_maps: int = 16,
        kernel_size: int | tuple[int, ...] = 3,
        *,
        gamma: float = 0.0,
        activation: Activation = None,
        bias: bool = True,
        map_layout: MapLayout = _NCHW,
        input_size: InputSize | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_finite(f"building {type(self).__name__}", "gamma", gamma)
        self.num_dims: int = map_layout.layout.num_dims  # the base class builds the kernel from it
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
        result = residual_attention(
            x,
            self.weight,
            self.bias,
            self.gamma,
            self.activation,
            self.map_layout,
            _image(x, self.input_size),
        )
        # The features last: torchvision's feature extraction takes the last node inside a module
        # as its output.
        maps, features = result[1], result[0]
        return self.emit(features, maps, return_maps)

    def _is_lost(self, model: nn.Module, name: str) -> bool:
        return not is_reached(model, name)

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


class GatedBlock(nn.Module):
    """Attention of any kind, with a factor that starts at 0: x + gamma * (block(x) - x).

    `insert_attention` builds and inserts it.

    Example:
        >>> import torch
        >>> from torchvision.ops import SqueezeExcitation
        >>> from softattn.insertion.residual import GatedBlock
        >>> attention = GatedBlock(SqueezeExcitation(64, 16))
        >>> x = torch.randn(2, 64, 7, 7)
        >>> torch.equal(attention(x), x)
        True

    Args:
        block: Module from a map (B, C, H, W), or (B, C, D, H, W) for volumes, to one of the same
            shape.
        gamma: Initial value of the learned factor.
        map_layout: The layout of x.
        input_size: Record of the size of the images of a pass, for tokens.
        device: Device of gamma.
        dtype: Dtype of gamma.

    Shape:
        - x: Feature map in the layout of `map_layout`.
        - output: The shape of x.

    Raises:
        ShapeError: In `forward`, x has another shape, or the block does not keep it.
        ModelError: In `forward`, x is not one tensor.
    """

    def __init__(
        self,
        block: nn.Module,
        *,
        gamma: float = 0.0,
        map_layout: MapLayout = _NCHW,
        input_size: InputSize | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        doing = f"building {type(self).__name__}"
        self.initial_gamma: float = check_finite(doing, "gamma", gamma)
        self.map_layout = map_layout
        self.input_size = input_size
        self.block = block
        self.gamma: nn.Parameter = parameter_factory(doing, device, dtype)(1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset gamma. The modules of the block reset their parameters themselves."""
        nn.init.constant_(self.gamma, self.initial_gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + gamma * (block(x) - x)."""
        nchw = _to_nchw(x, self.map_layout, _image(x, self.input_size))
        # Some networks compute maps in another dtype than that of their parameters.
        return gate(x, nchw, self.block(nchw.to(self.gamma.dtype)), self.gamma, self.map_layout)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *args: Any,
    ) -> None:
        # A checkpoint from before the insertion has none of these keys, and is complete. The
        # block is loaded from the same dictionary next, so it gets its own values.
        if not any(key.startswith(prefix) for key in state_dict):
            if local_metadata.get("assign_to_params_buffers") and self.gamma.is_meta:
                self._initialize(torch.get_default_device())
            own = self.state_dict(keep_vars=True)
            state_dict.update({prefix + key: tensor for key, tensor in own.items()})
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _initialize(self, device: torch.device) -> None:
        if device.type == "meta":
            return
        for name, module in self.block.named_modules():
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            if own and not hasattr(module, "reset_parameters"):
                raise ModelError(
                    "loading a checkpoint without attention into a model on the meta device: "
                    f"{join('block', name)!r} of the inserted attention ({type(module).__name__}) "
                    "has no reset_parameters. Insert attention after loading."
                )
        self.to_empty(device=device)
        for module in self.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()

    def extra_repr(self) -> str:
        """Return the arguments, for `print(module)`."""
        return f"gamma={self.initial_gamma}, layout={self.map_layout.layout.value}"
