"""Whether the place on the screen or the length of a response drew raters to it.

Position: over the answers that chose a response, how often it stood in each place, with Pearson's χ² against equal
shares. Orders are balanced or drawn anew for each answer, so that the answers may count one by one; where replicas of
an item stand in different places the test is on the safe side.

Length: the rank of the chosen response's length among the item's. Length belongs to the item, not to the answer, so
the test is that of `cluster_statistics`, by conversation root. Long responses may be chosen because they are better:
this says how the choice goes with length, not why.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rso_core.cluster_statistics import clustered
from rso_core.distributions import chi_square_tail
from rso_core.ratings import SAME, Integers, Numbers, Ratings

NO_CHOICES = "undefined: nobody has chosen a response"


@dataclass(frozen=True)
class PositionBias:
    """By place from left to right: share of choices (None without any) and mean quality; the test of equal shares."""

    choices: int  # answers that chose a response rather than "same"
    chosen: tuple[float, ...] | None
    quality: tuple[float, ...]
    chi_square: float | None
    p: float | None
    undefined: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class LengthBias:
    """By length from the longest response to the shortest: share of choices; responses as long as each other share.

    `score` is the mean rank of what was chosen, from −1 (always the shortest) to 1 (always the longest), 0 being what
    chance gives, and `p` its test. `mean_chosen` and `mean_other` are lengths, over items.
    """

    choices: int
    chosen: tuple[float, ...] | None
    score: float | None
    p: float | None
    mean_chosen: float | None
    mean_other: float | None
    undefined: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def position_bias(ratings: Ratings) -> PositionBias:
    """Return how choices and quality go with the place on the screen."""
    quality = np.take_along_axis(ratings.quality, ratings.order, axis=1)
    means = tuple(float(mean) for mean in quality.mean(axis=0)) if len(ratings) else ()
    chose = ratings.choice != SAME
    places = (ratings.order[chose] == ratings.choice[chose, None]).argmax(axis=1)
    counts = np.bincount(places, minlength=ratings.systems)
    choices = int(chose.sum())
    if not choices:
        return PositionBias(0, None, means, None, None, undefined=NO_CHOICES)
    chi_square = float(((counts - choices / ratings.systems) ** 2).sum() / (choices / ratings.systems))
    return PositionBias(
        choices=choices,
        chosen=tuple(float(share) for share in counts / choices),
        quality=means,
        chi_square=chi_square,
        p=chi_square_tail(chi_square, ratings.systems - 1),
    )


def length_bias(ratings: Ratings) -> LengthBias:
    """Return how choices go with length. Raises ValueError when the ratings have no lengths."""
    if ratings.length is None:
        message = "`length` is needed to tell a bias towards it, got ratings without"
        raise ValueError(message)
    chose = ratings.in_order()
    chose = chose.rows(chose.choice != SAME)
    if not len(chose) or chose.length is None:
        return LengthBias(0, None, None, None, None, None, undefined=NO_CHOICES)
    items, first, member, answers = np.unique(chose.item, return_index=True, return_inverse=True, return_counts=True)
    by_answer = np.column_stack([_rank_shares(chose.length, chose.choice), _lengths_by_choice(chose)])
    means = np.zeros((len(items), by_answer.shape[1]))
    np.add.at(means, member, by_answer)
    means /= answers[:, None]
    ranks = means[:, : chose.systems]
    scores = ranks @ np.linspace(1, -1, chose.systems)
    return LengthBias(
        choices=len(chose),
        chosen=tuple(float(share) for share in ranks.mean(axis=0)),
        score=float(scores.mean()),
        p=clustered(scores[:, None], chose.item_root[first]).p_values()[0],
        mean_chosen=float(means[:, -2].mean()),
        mean_other=float(means[:, -1].mean()),
    )


def _rank_shares(length: Numbers, choice: Integers) -> Numbers:
    """Return for each answer the share that each rank gets, longest first, [n, S]; equal lengths share their ranks."""
    chosen = length[np.arange(len(length)), choice][:, None]
    longer, equal = (length > chosen).sum(axis=1)[:, None], (length == chosen).sum(axis=1)[:, None]
    rank = np.arange(length.shape[1])
    return np.asarray(((rank >= longer) & (rank < longer + equal)) / equal)


def _lengths_by_choice(chose: Ratings) -> Numbers:
    assert chose.length is not None  # noqa: S101 - told by the caller; for the type checker
    chosen = chose.length[np.arange(len(chose)), chose.choice]
    return np.column_stack([chosen, (chose.length.sum(axis=1) - chosen) / (chose.systems - 1)])
