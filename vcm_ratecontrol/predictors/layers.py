"""Layers that several networks are made of, and what turns a trained network into a fast one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Activation = Callable[[], nn.Module]


def silu() -> nn.Module:
    """SiLU, in place."""
    return nn.SiLU(inplace=True)


def relu() -> nn.Module:
    """ReLU, in place."""
    return nn.ReLU(inplace=True)


def hardswish() -> nn.Module:
    """Hardswish, in place: as fast as ReLU on a CPU, and close to SiLU."""
    return nn.Hardswish(inplace=True)


class ConvNormActivation(nn.Sequential):
    """Convolution (0), batch norm (1), activation (2): torchvision's `Conv2dNormActivation`, so its key
    names too."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        norm_eps: float = 1e-5,
        activation: Activation | None = silu,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=norm_eps),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class StochasticDepth(nn.Module):
    """Drops a residual branch of whole samples while training (Huang et al., 2016; torchvision's mode
    'row')."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        shape = [x.shape[0]] + [1] * (x.ndim - 1)
        return x * torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(keep).div_(keep)


class SetEncoder(nn.Module):
    """Any number of vectors -> one vector, whatever their order (Deep Sets, Zaheer et al., 2017).

    [B, M, inputs] and a mask bool [B, M] -> [B, outputs]; an empty set gives zeros.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 32) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.all = nn.Linear(2 * hidden + 1, outputs)

    def forward(self, members: Tensor, mask: Tensor) -> Tensor:
        weight = mask.to(members.dtype)[..., None]
        count = weight.sum(dim=1)
        encoded = self.each(members) * weight  # ReLU outputs are >= 0, so a masked 0 never wins the maximum
        mean = encoded.sum(dim=1) / count.clamp(min=1)
        pooled = torch.cat([mean, encoded.amax(dim=1), torch.log1p(count)], dim=1)
        result: Tensor = self.all(pooled) * (count > 0)
        return result


def init_convolutions(module: nn.Module) -> None:
    """He initialisation of convolutions (fan out), ones and zeros for batch norms, as torchvision does."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def for_inference(network: nn.Module) -> nn.Module:
    """A copy that is fast to run: evaluation mode, batch norms folded into their convolutions, channels last.

    The copy's state dict has other keys; it is for running, not for saving.
    """
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    for module in fast.modules():
        if isinstance(module, ConvNormActivation):
            convolution, norm = module[0], module[1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[0] = fuse_conv_bn_eval(convolution, norm)
                module[1] = nn.Identity()
    for parameter in fast.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return fast


def count_parameters(network: nn.Module) -> int:
    """Number of learnt values; buffers do not count."""
    return sum(parameter.numel() for parameter in network.parameters())


def two_layers(inputs: int, hidden: int, dropout: float) -> nn.Sequential:
    """[B, inputs] -> [B, hidden], of which only what is positive."""
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), second, nn.ReLU())
