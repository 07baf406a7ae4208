"""A small anchor-free detector with a decoupled head, in the raw output layout of YOLOX."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU (on a CPU a sixth faster in all than SiLU)."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03),
        nn.ReLU(inplace=True),
    )


def separable(channels: int) -> nn.Sequential:
    """A 3x3 convolution in two steps: within each channel, then across them."""
    return nn.Sequential(conv(channels, channels, 3, groups=channels), conv(channels, channels, 1))


class Residual(nn.Module):  # type: ignore[misc]
    """Squeeze to half the channels, look around, add to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels // 2, 1), conv(channels // 2, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Pooled(nn.Module):  # type: ignore[misc]
    """The same map at four reaches, so that a large object is seen whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = conv(channels, channels // 2, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.merge = conv(channels * 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.squeeze(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.merge(torch.cat(maps, 1))


class Head(nn.Module):  # type: ignore[misc]
    """Boxes and objectness in one branch, classes in the other, for one scale."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.box_branch, self.class_branch = self._branch(channels), self._branch(channels)
        self.box, self.objectness = nn.Conv2d(channels, 4, 1), nn.Conv2d(channels, 1, 1)
        self.classes = nn.Conv2d(channels, classes, 1)
        for layer in (self.objectness, self.classes):
            nn.init.constant_(layer.bias, -4.6)  # at first nothing is an object: a probability of 0.01

    @staticmethod
    def _branch(channels: int) -> nn.Sequential:
        return nn.Sequential(separable(channels), separable(channels))

    def forward(self, x: Tensor) -> Tensor:
        where, what = self.box_branch(x), self.class_branch(x)
        return torch.cat([self.box(where), self.objectness(where), self.classes(what)], 1)


class DemoDetector(nn.Module):  # type: ignore[misc]
    """f32[N, 3, H, W] BGR 0..255 to f32[N, anchors, 5 + classes], boxes not yet decoded, scores as logits.

    Anchors run through strides 8, 16, 32, each row by row. H and W are multiples of 32.
    """

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 24, 3, 2))
        self.stage8 = nn.Sequential(conv(24, 48, 3, 2), Residual(48))
        self.stage16 = nn.Sequential(conv(48, 96, 3, 2), Residual(96), Residual(96))
        self.stage32 = nn.Sequential(conv(96, 160, 3, 2), Residual(160), Pooled(160))
        self.lateral = nn.ModuleList([conv(c, width, 1) for c in (48, 96, 160)])
        self.smooth = nn.ModuleList([separable(width) for _ in range(2)])
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.heads = nn.ModuleList([Head(width, classes) for _ in STRIDES])

    def forward(self, images: Tensor) -> Tensor:
        c8 = self.stage8(self.stem(images * (1 / 255)))
        c16 = self.stage16(c8)
        p32 = self.lateral[2](self.stage32(c16))
        p16 = self.smooth[1](self.lateral[1](c16) + self.up(p32))
        p8 = self.smooth[0](self.lateral[0](c8) + self.up(p16))
        maps = [head(p) for head, p in zip(self.heads, (p8, p16, p32), strict=True)]
        # The sizes as plain numbers, so that the exported graph reshapes by constants and only the batch stays free.
        flat = [m.reshape(-1, int(m.shape[1]), int(m.shape[2]) * int(m.shape[3])) for m in maps]
        return torch.cat(flat, 2).transpose(1, 2)


class Exported(nn.Module):  # type: ignore[misc]
    """The same with objectness and class scores as probabilities: what the ONNX file holds."""

    def __init__(self, detector: DemoDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        raw = self.detector(images)
        return torch.cat([raw[..., :4], raw[..., 4:].sigmoid()], 2)


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The left top corner of each anchor's cell, in cells, f32[anchors, 2], and its stride f32[anchors, 1]."""
    cells, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        cells.append(torch.stack([x, y], 2).reshape(-1, 2).float())
        strides.append(torch.full((len(cells[-1]), 1), float(stride)))
    return torch.cat(cells), torch.cat(strides)


def decode(raw: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """Boxes x1 y1 x2 y2 in input pixels, f32[N, anchors, 4]."""
    centre = (raw[..., :2] + cells) * strides
    half = raw[..., 2:4].clamp(max=6).exp() * strides / 2
    return torch.cat([centre - half, centre + half], 2)
