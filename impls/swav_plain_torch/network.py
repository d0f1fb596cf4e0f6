"""The network: ResNet backbone, projection head, prototypes, channels first, of torch's own layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

from swav_spec.config import Network
from swav_spec.network import has_shortcut_convolution


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the side, but for its stride."""
    return nn.Conv2d(inputs, outputs, kernel_size=kernel, stride=stride, padding=kernel // 2, bias=False)


class Block(nn.Module):
    """Convolutions, each with batch normalisation, added to the shortcut unless the kind has none."""

    def __init__(self, kind: str, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        layers = {
            "bottleneck": [(inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)],
            "basic": [(inputs, width, 3, stride), (width, width, 3, 1)],
            "conv": [(inputs, width, 3, stride)],
        }[kind]
        self.count, self.residual = len(layers), kind != "conv"
        for number, (channels, outputs, kernel, step) in enumerate(layers, start=1):
            setattr(self, f"conv{number}", conv(channels, outputs, kernel, step))
            setattr(self, f"bn{number}", nn.BatchNorm2d(outputs))
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        for number in range(1, self.count + 1):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x))
            if number < self.count:
                x = F.relu(x)
        return F.relu(x + identity) if self.residual else F.relu(x)


class SwAV(nn.Module):
    """Backbone, head and prototypes, under the published names."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.stem, self.stages = network.stem, len(network.depths)
        channels = 3
        if network.stem != "none":
            channels = network.widths[0]
            self.conv1 = conv(3, channels, 7, 2) if network.stem == "imagenet" else conv(3, channels, 3)
            self.bn1 = nn.BatchNorm2d(channels)
        for stage in range(self.stages):
            blocks = []
            width, outputs = network.widths[stage], network.widths[stage] * network.expansion
            for index in range(network.depths[stage]):
                stride = network.strides[stage] if index == 0 else 1
                downsample = None
                if has_shortcut_convolution(network, channels, width, stride):
                    downsample = nn.Sequential(conv(channels, outputs, 1, stride), nn.BatchNorm2d(outputs))
                blocks.append(Block(network.block, channels, width, stride, downsample))
                channels = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.projection_head = nn.Sequential(
            nn.Linear(channels, network.hidden),
            nn.BatchNorm1d(network.hidden),
            nn.ReLU(),
            nn.Linear(network.hidden, network.embedding),
        )
        self.prototypes = nn.Linear(network.embedding, network.prototypes, bias=False)

    def backbone(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, side, side] to pooled features [N, F]."""
        if self.stem != "none":
            x = F.relu(self.bn1(self.conv1(x)))
        if self.stem == "imagenet":
            x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)

    @torch.no_grad()
    def normalise_prototypes(self) -> None:
        """Overwrites the prototypes by their row-normalised selves."""
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def project(self, views: Sequence[torch.Tensor], *, bfloat16: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [V*B, F] and projections [V*B, D] of one tensor for each resolution, [C*B, side, side, 3]."""
        with torch.autocast(views[0].device.type, torch.bfloat16, enabled=bfloat16):
            features = torch.cat([self.backbone(view.permute(0, 3, 1, 2).contiguous()) for view in views])
            projections = self.projection_head(features)
        wide = self.prototypes.weight.dtype
        return features.to(wide), projections.to(wide)

    def forward(
        self, views: Sequence[torch.Tensor], *, bfloat16: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, unit embeddings, and scores [V*B, K]."""
        features, projections = self.project(views, bfloat16=bfloat16)
        embeddings = F.normalize(projections, dim=1)
        return features, embeddings, self.prototypes(embeddings)
