"""Which anchors answer for which objects (after SimOTA, https://arxiv.org/abs/2107.08430), and what mistakes cost."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CENTRE_RADIUS = 2.0  # an anchor may answer for an object if it lies this many strides from the object's middle
BOX_WEIGHT = 5.0


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """f32[B, G, A] from boxes f32[B, G, 4] and f32[B, A, 4]."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(3)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).prod(2) for box in (a, b))
    return overlap / (area_a[:, :, None] + area_b[:, None, :] - overlap + 1e-6)


@torch.no_grad()  # type: ignore[untyped-decorator]
def assign(
    predicted: Tensor, scores: Tensor, centres: Tensor, strides: Tensor, boxes: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """For each anchor the index of its object, i64[B, A] with -1 for none, and its IoU with it, f32[B, A].

    predicted: f32[B, A, 4]; scores: f32[B, A, C] probabilities; boxes: f32[B, G, 4]; classes: i64[B, G] with -1 where
    there is no object.
    """
    real = classes >= 0
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    apart = (centres[None, None] - middle[:, :, None]).abs().amax(3)
    near = (apart < CENTRE_RADIUS * strides.squeeze(1)) & real[:, :, None]
    inside = ((centres > boxes[:, :, None, :2]) & (centres < boxes[:, :, None, 2:])).all(3) & real[:, :, None]
    iou = pairwise_iou(boxes, predicted) * real[:, :, None]
    wanted = scores.transpose(1, 2).gather(1, classes.clamp(min=0)[..., None].expand(-1, -1, scores.shape[1]))
    cost = 3 * (1 - iou) - wanted.clamp(min=1e-4).log() + 10.0 * ~inside + 1e5 * ~near
    # How many anchors an object gets follows from how well the best ones already fit it.
    best = (iou * near).topk(10, dim=2).values.sum(2).long().clamp(1, 10)
    threshold = cost.topk(10, dim=2, largest=False).values.gather(2, best[..., None] - 1)
    chosen = (cost <= threshold) & near
    owner = torch.where(chosen, cost, torch.inf).min(1)
    matched = torch.where(chosen.any(1), owner.indices, -1)
    return matched, iou.gather(1, owner.indices[:, None]).squeeze(1)


def giou_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - generalised IoU of boxes f32[n, 4], pair by pair."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap + 1e-6
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1) + 1e-6
    return 1 - overlap / union + (hull - union) / hull


def detection_loss(
    raw: Tensor, predicted: Tensor, centres: Tensor, strides: Tensor, boxes: Tensor, classes: Tensor
) -> Tensor:
    """Box, objectness and class loss of a batch, each over the number of anchors that answer for an object."""
    objectness, class_logits = raw[..., 4], raw[..., 5:]
    scores = (raw[..., 4:5].sigmoid() * class_logits.sigmoid()).sqrt()
    matched, iou = assign(predicted, scores, centres, strides, boxes, classes)
    positive = matched >= 0
    count = positive.sum().clamp(min=1)
    batch, anchor = positive.nonzero(as_tuple=True)
    owner = matched[batch, anchor]
    box_loss = giou_loss(predicted[batch, anchor], boxes[batch, owner]).sum()
    target = functional.one_hot(classes[batch, owner], class_logits.shape[2]) * iou[batch, anchor, None]
    class_loss = functional.binary_cross_entropy_with_logits(class_logits[batch, anchor], target, reduction="sum")
    object_loss = functional.binary_cross_entropy_with_logits(objectness, positive.float(), reduction="sum")
    return (BOX_WEIGHT * box_loss + class_loss + object_loss) / count
