"""Vision transformer with the state-dict keys of timm, so that the public `jx_vit_large_patch32_224_in21k`
loads.

Dosovitskiy et al., 2021 (arXiv 2010.11929). As DT-JRD uses it: the picture vector is the mean of the normed
patch tokens; the class token takes part in attention only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention, [B, N, C] -> [B, N, C]; keys qkv, proj."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        result: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return result


class Mlp(nn.Module):
    """Two linear layers with a GELU between them; keys fc1, fc2."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return result


class Block(nn.Module):
    """Pre-norm transformer block; keys norm1, attn, norm2, mlp."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class PatchEmbedding(nn.Module):
    """Square patches -> tokens; key proj."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return result


class VisionTransformer(nn.Module):
    """Trunk: float32 [B, 3, size, size] -> [B, width], the mean of the patch tokens after the last norm.

    Args: size: side of the input; patch: side of a patch; width, depth, heads: as in the paper.
    """

    def __init__(self, *, size: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if size % patch or width % heads:
            raise ValueError(f"size {size} must be a multiple of patch {patch}, width {width} of heads {heads}")
        self.channels = width
        self.patch_embed = PatchEmbedding(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self._init_weights()

    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.pos_embed
        tokens = self.norm(self.blocks(tokens))
        return cast(Tensor, tokens[:, 1:].mean(dim=1))

    def adapt_public(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A timm state dict made to fit: classifier left out, position embedding resized to this grid."""
        kept = {k: v for k, v in state.items() if not k.startswith(("head.", "pre_logits."))}
        if "pos_embed" in kept:
            kept["pos_embed"] = resize_position_embedding(kept["pos_embed"], self.pos_embed.shape[1] - 1)
        return kept


def resize_position_embedding(embedding: Tensor, patches: int) -> Tensor:
    """Position embedding of another grid: [1, 1 + n * n, C] -> [1, 1 + patches, C]; the class token's stays.

    Bicubic with aligned corners, as DT-JRD's training code does (7 x 7 -> 12 x 12 for 384 pixels).
    Raises: ValueError for grids that are not square.
    """
    token, grid = embedding[:, :1], embedding[:, 1:]
    old, new = math.isqrt(grid.shape[1]), math.isqrt(patches)
    if old**2 != grid.shape[1] or new**2 != patches:
        raise ValueError(f"position embeddings of {grid.shape[1]} and {patches} patches: both must be squares")
    if old == new:
        return embedding
    picture = grid.transpose(1, 2).reshape(1, -1, old, old)
    resized = F.interpolate(picture, size=(new, new), mode="bicubic", align_corners=True)
    return torch.cat([token, resized.flatten(2).transpose(1, 2)], dim=1)
