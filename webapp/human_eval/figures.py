"""Everything that is computed of a campaign's answers, as JSON values; the formulas are those of `rso_core`."""

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from rso_core.agreement import choice_agreement, quality_agreement
from rso_core.human_eval import Ratings, results
from rso_core.rater_quality import rater_table
from rso_core.rating_bias import length_bias, position_bias
from webapp.human_eval.models import Campaign

Checks = Mapping[int, tuple[int, int]]


def figures_of(campaign: Campaign, ratings: Ratings, checks: Checks, *, leave_out_identical: bool) -> dict[str, Any]:
    """Return the figures of these answers. Raises UserError when there is none to compute from.

    Items left out for their identical responses are left out of everything but the table of raters, which is about
    what they did in all.
    """
    found = results(
        ratings, seed=campaign.seed % 2**32, leave_out_identical=leave_out_identical, wanted=campaign.replicas
    )
    used = ratings.rows(~ratings.has_twins()) if leave_out_identical else ratings
    raters = rater_table(ratings, checks)
    seconds = [row.median_seconds for row in raters if row.median_seconds is not None]
    figures: dict[str, Any] = finite({
        "results": found.as_dict(),
        "quality_agreement": quality_agreement(used).as_dict(),
        "choice_agreement": choice_agreement(used).as_dict(),
        "position": position_bias(used).as_dict(),
        "length": length_bias(used).as_dict(),
        "raters": [row.as_dict() for row in raters],
        "histogram": histogram_by_system(used),
        "median_tasks": median(np.unique(used.rater, return_counts=True)[1].tolist()),
        "median_seconds": median(seconds) if seconds else None,  # of the raters' own medians
    })  # fmt: skip
    return figures


def histogram_by_system(ratings: Ratings) -> list[list[int]]:
    """Return how often each system got each score, from the lowest."""
    low, high = ratings.scale
    counts = np.zeros((ratings.systems, high - low + 1), dtype=np.int64)
    np.add.at(counts, (np.arange(ratings.systems), (ratings.quality - low).astype(np.int64)), 1)
    return [[int(n) for n in row] for row in counts]


def finite(value: Any) -> Any:
    """Return JSON values with None for what PostgreSQL's JSON cannot hold: NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
