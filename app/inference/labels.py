"""Class names for models that bring none."""

from __future__ import annotations

COCO: tuple[str, ...] = tuple(
    """person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|parking meter
|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|tie|suitcase|frisbee|skis|snowboard
|sports ball|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle|wine glass|cup|fork|knife|spoon
|bowl|banana|apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|potted plant|bed|dining table
|toilet|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink|refrigerator|book|clock|vase|scissors
|teddy bear|hair drier|toothbrush""".replace("\n", "").split("|")
)


def default_labels(count: int) -> tuple[str, ...]:
    """COCO's names for 80 classes, person for one, else class_0, class_1, ..."""
    if count == len(COCO):
        return COCO
    return ("person",) if count == 1 else tuple(f"class_{number}" for number in range(count))
