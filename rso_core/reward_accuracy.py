"""How often the reward-ranking model agrees with held-out human pairs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rso_core.artifacts import Row
from rso_core.reward_pairs import is_flipped, read_pairs
from rso_core.reward_ranking import OnProgress, Reader, in_units
from rso_core.vocabulary import Task
from rso_core.win_rate import win_rate

if TYPE_CHECKING:
    from rso_core.models import LanguageModel

_BOOTSTRAP_DRAWS = 1000
_MOST_BINS = 10
_FEWEST_IN_BIN = 20


def heldout_accuracy(  # noqa: PLR0913 - settings, all keyword-only
    lm: "LanguageModel",
    rows: Sequence[Row],
    *,
    order_average: bool,
    batch_size: int,
    seed: int,
    on_progress: OnProgress,
    task: Task,
    max_length: int,
) -> dict[str, Any]:
    """Return how often the model agrees with held-out human pairs, beside what blind rules reach.

    Each rate has a 95 % interval by bootstrap over conversation roots; ties count ½. Without `order_average` each
    pair is judged in one order, drawn by seed; `first_shown_wins` uses the same draw.
    """
    reader = Reader(lm, task, max_length)
    read = read_pairs(reader, rows)
    kept = {pair.number: pair for pair in read.pairs}
    counts = {"heldout_pairs": len(kept), "heldout_excluded_rows": read.excluded_rows}
    if not kept:
        return {**counts, "accuracy": None, "longer_wins": None, "first_shown_wins": None, "calibration": []}
    shown = [pair.shown(flip) for flip in (False, True) for pair in kept.values()]
    answers = reader.answer_inputs(shown, batch_size=batch_size, on_progress=in_units(on_progress, 2))
    logits = np.array(answers.logits).reshape(2, -1)
    flips = np.array([is_flipped(seed, number, 0) for number in kept])
    # Positive where the winner is preferred: shown first it is A, shown second it is B.
    margins = np.stack([logits[0], -logits[1]])
    margin = margins.mean(axis=0) if order_average else np.where(flips, margins[1], margins[0])
    length = np.array([len(rows[number]["chosen"]) - len(rows[number]["rejected"]) for number in kept])
    roots = [rows[number]["root"] for number in kept]

    def rate(values: NDArray[Any]) -> dict[str, Any]:
        return win_rate(_wins(values), roots, draws=_BOOTSTRAP_DRAWS, seed=seed).as_dict()

    return {
        **counts,
        "accuracy": rate(margin),
        "longer_wins": rate(length),
        "first_shown_wins": rate(np.where(flips, -1, 1)),
        "order_flips": float((np.sign(margins[0]) != np.sign(margins[1])).mean()),
        "mean_confidence": float((1 / (1 + np.exp(-np.abs(margin)))).mean()),
        "log_loss": float(np.logaddexp(0, -margin).mean()),
        "heldout_outside_mass": float(np.mean(answers.outside_mass)),
        "calibration": calibration(margin, roots, seed=seed),
    }


def calibration(margin: NDArray[np.float64], roots: Sequence[str], *, seed: int) -> list[dict[str, Any]]:
    """Return how often the model is right among pairs of like confidence, least confident first.

    `margin` [pairs] is the logit that the winner beats the loser; the confidence of a pair is max(ρ, 1 − ρ) = σ(|margin|)
    and a calibrated model is right that often. Bins hold equal numbers of pairs, at least `_FEWEST_IN_BIN` where there are
    so many; each has its mean confidence, and its accuracy with the interval by bootstrap over conversation roots.
    """
    order = np.argsort(np.abs(margin), kind="stable")
    bins = min(_MOST_BINS, max(1, len(margin) // _FEWEST_IN_BIN))
    found = []
    for members in np.array_split(order, bins):
        right = win_rate(_wins(margin[members]), [roots[i] for i in members], draws=_BOOTSTRAP_DRAWS, seed=seed)
        confidence = float((1 / (1 + np.exp(-np.abs(margin[members])))).mean())
        found.append({"confidence": confidence, "accuracy": right.as_dict()})
    return found


def _wins(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 where the margin is positive, 0 where it is negative, ½ where it is 0."""
    wins: NDArray[np.float64] = (np.sign(margin) + 1) / 2
    return wins
