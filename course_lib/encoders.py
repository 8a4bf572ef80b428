"""Image encoders: residual networks from 20 thousand to 11 million parameters, without a head.

`small_encoder` trains on 16 x 16 pictures in seconds on a CPU; `resnet18_cifar` is what CIFAR-10
results are reported with. Both map (N, 3, height, width) to (N, d), and `dim` is d.
"""

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """relu(x + F(x)) with two 3 x 3 convolutions; a 1 x 1 one on the way past if shapes change."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class SmallEncoder(nn.Module):
    """Encoder of small pictures, (N, 3, H, W) -> (N, 16 width); see `small_encoder`.

    Three stages of width, 2 width and 4 width channels. Each is a 3 x 3 convolution, max-pooling
    that halves height and width, and a residual 3 x 3 convolution. The output keeps the upper left,
    upper right, lower left and lower right quarter apart: where a part of a shape lies helps a
    linear probe. `dim` is the width of the output. He et al. 2016 (1512.03385) for the residuals;
    pooling instead of strides, and one convolution instead of two, differ from theirs.
    """

    def __init__(self, width: int):
        super().__init__()
        self.dim = 16 * width
        channels = (3, width, 2 * width, 4 * width)
        self.stages = nn.Sequential(*map(PooledStage, channels[:-1], channels[1:]))
        self.quarters = nn.AdaptiveAvgPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        return self.quarters(self.stages(images)).flatten(1)


class PooledStage(nn.Module):
    """y + F(y) of y = max-pooled F'(x), with F and F' a 3 x 3 convolution, BatchNorm and ReLU."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        # Pooled before the ReLU, which gives the same and has a quarter of the work.
        y = torch.relu(torch.max_pool2d(self.bn1(self.conv1(x)), 2))
        return y + torch.relu(self.bn2(self.conv2(y)))


class ResNet(nn.Module):
    """Residual encoder without a head, (N, channels, H, W) -> (N, widths[-1]).

    A 3 x 3 stem without pooling (the CIFAR form), one stage of `blocks` BasicBlocks for each of
    `widths`, halving height and width from the second stage on, then the mean over positions.
    `dim` is the width of the output. He et al. 2016 (1512.03385), section 4.2; Chen et al. 2020
    (2002.05709), appendix B.9, for the stem.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int, channels: int = 3):
        super().__init__()
        self.dim = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        stages = []
        before = widths[0]
        for depth, width in enumerate(widths):
            stride = 1 if depth == 0 else 2
            stage = [BasicBlock(before, width, stride)]
            stage += [BasicBlock(width, width, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*stage))
            before = width
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(self.stem(images)).mean(dim=(2, 3))


def small_encoder(width: int = 16) -> SmallEncoder:
    """An encoder for pictures of 8 x 8 pixels and more: (N, 3, H, W) -> (N, 16 width).

    72 thousand parameters at the default width of 16. In `torch.channels_last` memory it is about
    a third faster on a CPU. Weights come from torch's global random state: call
    `torch.manual_seed` first. Raises ValueError for a width below 1.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}.")
    return SmallEncoder(width)


def resnet18_cifar() -> ResNet:
    """ResNet-18 with the CIFAR stem and no head: (N, 3, 32, 32) -> (N, 512).

    11 168 832 parameters. Weights come from torch's global random state.
    """
    return ResNet((64, 128, 256, 512), blocks=2)
