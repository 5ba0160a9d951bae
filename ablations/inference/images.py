"""One seed: two networks on the same test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ablations.errors import UserError
from ablations.inference._checks import Interval, check_proper

SEED_VARIANCE = (
    "One seed: the variance between seeds is unknown, and none of this includes it. Another seed "
    "may turn the order round."
)


@dataclass(frozen=True)
class ImageDifference:
    """Two networks of one seed on the same test images.

    Attributes:
        images: how many.
        only_baseline, only_arm: images that only this network got wrong.
        difference: error of the arm minus that of the baseline, percentage points.
        interval: of the difference over test images, percentage points.
        p: McNemar's exact test.
        mid_p: less conservative (Fagerland, Lydersen and Laake 2013); by its definition below 1
            for equal counts, and 0.5 where no image is discordant.
        text: what this is and is not.
    """

    images: int
    only_baseline: int
    only_arm: int
    difference: float
    interval: Interval
    p: float
    mid_p: float
    text: str


def mcnemar(
    baseline_wrong: Sequence[bool], arm_wrong: Sequence[bool], confidence: float = 0.95
) -> ImageDifference:
    """Compare two networks image by image; for a single seed, where nothing else is possible.

    Args:
        baseline_wrong: (images,) whether the baseline got each test image wrong.
        arm_wrong: the same of the arm, images in the same order.
        confidence: of the interval.

    Raises:
        UserError: no images, or not the same number.
    """
    if len(baseline_wrong) != len(arm_wrong):
        raise UserError(
            f"McNemar's test: {len(arm_wrong)} images of the arm, {len(baseline_wrong)} of the "
            "baseline: must be the same images"
        )
    wrong = [(bool(b), bool(a)) for b, a in zip(baseline_wrong, arm_wrong, strict=True)]
    return mcnemar_counts(
        wrong.count((True, False)), wrong.count((False, True)), len(wrong), confidence
    )


def mcnemar_counts(
    only_baseline: int, only_arm: int, images: int, confidence: float = 0.95
) -> ImageDifference:
    """Return `mcnemar` from the counts of images that only one of the two got wrong.

    The interval is Wald's after adding one image to each count (Bonett and Price 2012), which
    Fagerland, Lydersen and Laake (2014) recommend: it covers well with few discordant images too.
    """
    from scipy.special import bdtr, ndtri

    check_proper(confidence)
    if images <= 0 or min(only_baseline, only_arm) < 0 or only_baseline + only_arm > images:
        raise UserError(
            f"McNemar's test: {only_baseline} and {only_arm} discordant of {images} images"
        )
    few, both = min(only_baseline, only_arm), only_baseline + only_arm
    below = float(bdtr(few - 1, both, 0.5)) if few else 0.0
    upto = float(bdtr(few, both, 0.5))
    exact = min(1.0, 2 * upto)
    # Half the probability of what was observed: both sides' points, which are one for equal counts.
    observed = (upto - below) * (1 if only_baseline == only_arm else 2)
    arm, base = (only_arm + 1) / (images + 2), (only_baseline + 1) / (images + 2)
    half = float(ndtri(0.5 + confidence / 2)) * math.sqrt(
        (arm + base - (arm - base) ** 2) / (images + 2)
    )
    return ImageDifference(
        images,
        only_baseline,
        only_arm,
        100 * (only_arm - only_baseline) / images,
        (100 * max(-1.0, arm - base - half), 100 * min(1.0, arm - base + half)),
        exact,
        exact - observed / 2,
        f"McNemar's exact test and a {100 * confidence:.4g} % interval over test images (Bonett "
        "and Price): these two trained networks, test images taken as a random sample. No Holm "
        f"adjustment, no word. {SEED_VARIANCE}",
    )
