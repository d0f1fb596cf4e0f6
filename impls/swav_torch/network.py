"""The network: ResNet backbone, projection head, prototypes (SwAV, section 4 and appendix A).

Modules carry the names of the published state dicts, which swav_spec.network lists. Views come in as
[N, height, width, channel]; as [N, channel, height, width] they are in channels-last memory format without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

from swav_spec.config import Network
from swav_spec.network import BN_EPSILON, BN_MOMENTUM, has_shortcut_convolution


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that pads symmetrically by half its kernel."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def normalisation(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation of a convolution's output."""
    return nn.BatchNorm2d(channels, eps=BN_EPSILON, momentum=BN_MOMENTUM)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1 to four times the width; added to the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, width, 1), normalisation(width)
        self.conv2, self.bn2 = convolution(width, width, 3, stride), normalisation(width)
        self.conv3, self.bn3 = convolution(width, 4 * width, 1), normalisation(4 * width)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)).add_(shortcut), inplace=True)


class Basic(nn.Module):
    """Two 3x3 convolutions, the first with the stride; added to the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, width, 3, stride), normalisation(width)
        self.conv2, self.bn2 = convolution(width, width, 3), normalisation(width)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)).add_(shortcut), inplace=True)


class Conv(nn.Module):
    """One 3x3 convolution, no shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, _: None) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, width, 3, stride), normalisation(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv1(x)), inplace=True)


BLOCKS = {"bottleneck": Bottleneck, "basic": Basic, "conv": Conv}


class SwavNetwork(nn.Module):
    """Backbone, head and prototypes of `network`.

    Args:
        network: depths, widths and so on.
        bfloat16: whether backbone and head compute in bfloat16; the weights and all that follows stay wide.
    """

    def __init__(self, network: Network, *, bfloat16: bool = False) -> None:
        super().__init__()
        self.bfloat16 = bfloat16
        self.stem = network.stem
        self.stages = [f"layer{number}" for number in range(1, len(network.depths) + 1)]
        channels = 3
        if network.stem != "none":
            kernel, stride = (7, 2) if network.stem == "imagenet" else (3, 1)
            channels = network.widths[0]
            self.conv1, self.bn1 = convolution(3, channels, kernel, stride), normalisation(channels)
        for name, depth, width, stride in zip(
            self.stages, network.depths, network.widths, network.strides, strict=True
        ):
            self.add_module(name, _stage(network, channels, depth, width, stride))
            channels = width * network.expansion
        self.projection_head = nn.Sequential(
            nn.Linear(channels, network.hidden),
            nn.BatchNorm1d(network.hidden, eps=BN_EPSILON, momentum=BN_MOMENTUM),
            nn.ReLU(inplace=True),
            nn.Linear(network.hidden, network.embedding),
        )
        self.prototypes = nn.Linear(network.embedding, network.prototypes, bias=False)

    def backbone(self, view: torch.Tensor) -> torch.Tensor:
        """Pooled features [N, F] of views [N, height, width, 3] of one resolution."""
        x = view.permute(0, 3, 1, 2)
        if self.stem != "none":
            x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        if self.stem == "imagenet":
            x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for name in self.stages:
            x = getattr(self, name)(x)
        return x.mean(dim=(2, 3))

    def encode(self, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [V*B, F] and projections [V*B, D], not yet of unit length.

        The backbone runs once for each resolution, so it normalises over that group; the head runs once over all.
        """
        with torch.autocast(views[0].device.type, torch.bfloat16, enabled=self.bfloat16):
            features = torch.cat([self.backbone(view) for view in views])
            projections = self.projection_head(features)
        wide = self.prototypes.weight.dtype
        return features.to(wide), projections.to(wide)

    def forward(self, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features [V*B, F], unit embeddings [V*B, D] and scores [V*B, K] with the prototypes as they are."""
        features, projections = self.encode(views)
        embeddings = F.normalize(projections, dim=-1, eps=1e-12)
        return features, embeddings, self.prototypes(embeddings)


def _stage(network: Network, channels: int, depth: int, width: int, stride: int) -> nn.Sequential:
    blocks = nn.Sequential()
    outputs = width * network.expansion
    for index in range(depth):
        step = stride if index == 0 else 1
        downsample = None
        if has_shortcut_convolution(network, channels, width, step):
            downsample = nn.Sequential(convolution(channels, outputs, 1, step), normalisation(outputs))
        blocks.append(BLOCKS[network.block](channels, width, step, downsample))
        channels = outputs
    return blocks
