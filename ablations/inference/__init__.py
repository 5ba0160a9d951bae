"""What differences over seeds allow to say, by one stated rule.

Values are errors in percent, so differences and margins are percentage points and lower is better.
The seed is the unit of replication. Nothing here gives an interval over seeds, a p or a word for
two seeds or fewer, for differences that are all equal, or for values that are not finite.

The rule of the word is `word`; the sentences for under a table are `caption` and the `text` of the
other results. Checked against scipy and statsmodels (tests/test_inference.py) and by simulation
(benchmarks/interval_coverage.py).
"""

from ablations.inference.comparisons import (
    Block,
    Comparison,
    Estimate,
    Family,
    caption,
    compare_arms,
    holm,
    word,
)
from ablations.inference.factorial import Effect, Effects, two_factor
from ablations.inference.images import (
    SEED_VARIANCE,
    ImageDifference,
    mcnemar,
    mcnemar_counts,
)
from ablations.inference.planning import FIRST_STAGE, SeedPlan, power, seeds_for, stein_seeds

__all__ = [
    "FIRST_STAGE",
    "SEED_VARIANCE",
    "Block",
    "Comparison",
    "Effect",
    "Effects",
    "Estimate",
    "Family",
    "ImageDifference",
    "SeedPlan",
    "caption",
    "compare_arms",
    "holm",
    "mcnemar",
    "mcnemar_counts",
    "power",
    "seeds_for",
    "stein_seeds",
    "two_factor",
    "word",
]
