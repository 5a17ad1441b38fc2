"""Object-wise JRD, no reference (DT-JRD, arXiv 2411.09308): the original crop -> one of 64 levels.

Trained with Gaussian soft labels (sigma 3), so that near levels count as nearly right. Configuration
`dtjrd` is the published network (ViT-L/32 at 384 x 384, argmax); `dtjrd_small` has the small backbone, the
plain statistics (the size of the object among them) and, where a detector is at hand, its confidence in the
object; it answers with the median.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.predictors.backbone import VECTOR_CHANNELS, Backbone, Features
from vcm_ratecontrol.predictors.evidence import N_EVIDENCE
from vcm_ratecontrol.predictors.interface import Batch, JRDPrediction
from vcm_ratecontrol.predictors.layers import SetEncoder
from vcm_ratecontrol.predictors.picture_statistics import N_STATISTICS
from vcm_ratecontrol.predictors.vit import VisionTransformer

Decode = Literal["argmax", "median"]
Trunk = Literal["vit", "small"]

SOFT_LABEL_SIGMA = 3.0
"""QP levels (DT-JRD, utils.py)."""

_EVIDENCE_CHANNELS = 32


class ObjectJRDClassifier(nn.Module):
    """`Batch` (picture = crop of one object) -> `JRDPrediction`.

    Args:
        trunk: 'vit' (arguments size, patch, width, depth, heads) or 'small' (takes statistics and evidence
        too). decode: how `decode_level` reads the classes; kept with the network because it belongs to its
        training. freeze_embedding: as published: patch projection, class token, position embedding and last
        norm stay. hidden, dropout: of the small head; 0 = linear.
    """

    def __init__(
        self,
        *,
        trunk: Trunk,
        decode: Decode = "argmax",
        size: int = 384,
        patch: int = 32,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        freeze_embedding: bool = False,
        hidden: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if trunk not in get_args(Trunk) or decode not in get_args(Decode):
            raise ValueError(f"trunk '{trunk}' or decode '{decode}' unknown")
        self.decode = decode
        self.describe: PublishedCrop | SmallCrop
        self.head: nn.Module
        if trunk == "vit":
            self.describe = PublishedCrop(size, patch, width, depth, heads, freeze_embedding)
            self.head = nn.Linear(width, N_LEVELS)
            nn.init.trunc_normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)
        else:
            self.describe = SmallCrop()
            self.head = nn.Sequential(
                nn.Linear(self.describe.channels, hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, N_LEVELS),
            )

    def forward(self, batch: Batch) -> JRDPrediction:
        return JRDPrediction(self.head(self.describe(batch)))

    def load_public(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Fill the ViT from timm's state dict; classifier not used, position embedding resized to this
        grid."""
        if not isinstance(self.describe, PublishedCrop):
            raise ValueError("the small backbone has no public weights; train it with vcm-train")
        adapted = self.describe.trunk.adapt_public(state)
        self.describe.trunk.load_state_dict(adapted)
        return tuple(name for name in state if name not in adapted)


class PublishedCrop(nn.Module):
    """The picture vector of a ViT."""

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, freeze: bool) -> None:
        super().__init__()
        self.trunk = VisionTransformer(size=size, patch=patch, width=width, depth=depth, heads=heads)
        if freeze:
            for name, parameter in self.trunk.named_parameters():
                parameter.requires_grad_(name.startswith("blocks."))

    def forward(self, batch: Batch) -> Tensor:
        result: Tensor = self.trunk(batch.picture)
        return result


class SmallCrop(nn.Module):
    """The vector of the small backbone, the plain statistics, and evidence of detectors."""

    channels = VECTOR_CHANNELS + N_STATISTICS + _EVIDENCE_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.evidence = SetEncoder(N_EVIDENCE, _EVIDENCE_CHANNELS)

    def forward(self, batch: Batch) -> Tensor:
        if batch.statistics is None:
            raise ValueError("dtjrd_small needs the picture statistics; set [input] statistics = true")
        seen: Features = self.backbone(batch.picture)
        evidence = self.evidence(batch.evidence, batch.evidence_mask)
        return torch.cat([seen.vector, batch.statistics, evidence], dim=1)


def gaussian_soft_labels(jrd: Tensor, sigma: float = SOFT_LABEL_SIGMA) -> Tensor:
    """Soft labels around the true levels, summing to 1: [B] -> float32 [B, 64]."""
    levels = torch.arange(N_LEVELS, device=jrd.device, dtype=torch.float32)
    return torch.softmax(-((levels - jrd[:, None].float()) ** 2) / (2 * sigma**2), dim=1)


def soft_label_loss(prediction: JRDPrediction, jrd: Tensor, sigma: float = SOFT_LABEL_SIGMA) -> Tensor:
    """Cross entropy against the Gaussian soft labels of the true levels ([B]); a mean over the batch."""
    return F.cross_entropy(prediction.logits, gaussian_soft_labels(jrd, sigma))


def decode_level(logits: Tensor, decode: Decode) -> Tensor:
    """One level per object: float32 [B, 64] -> int64 [B].

    'argmax': the likeliest (published). 'median': half of the probability lies on either side, which makes
    the mean absolute error least.
    """
    if decode == "argmax":
        return logits.argmax(dim=1)
    cumulated = torch.cumsum(torch.softmax(logits, dim=1), dim=1)
    return (cumulated < 0.5).sum(dim=1).clamp(max=N_LEVELS - 1)
