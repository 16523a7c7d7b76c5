"""The win rate that would be seen at equal length: a logistic regression on the difference in length.

P(win) = σ(a + b·d/s), d the length of the response less that of the reference, s the standard deviation of d. Predicted
at d = 0 it is σ(a). Outcomes are 1, 0 or ½ (a tie). The interval is σ of a ± 1.96 standard errors, clustered by
conversation root (sandwich, with the factor C/(C − 1)).
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rso_core.win_rate import Interval

_STEPS = 100
_Z = 1.959963984540054
_TIE, _FEWEST, _CLOSE = 0.5, 2, 1e-10
_CERTAIN = 12.0  # a logit beyond this: length, or nothing at all, decides every game
Matrix = NDArray[np.float64]


def length_controlled(outcomes: ArrayLike, differences: ArrayLike, clusters: Sequence[Hashable]) -> Interval | None:
    """Return the win rate at equal length with its interval.

    None where it cannot be told: fewer than two conversations, all won or all lost, or length decides every game. Where
    no lengths differ it is the plain rate. Raises ValueError when lengths of the inputs differ.
    """
    y, d = np.asarray(outcomes, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    if not y.shape == d.shape == (len(clusters),):
        message = f"`outcomes`, `differences` and `clusters` must be equally long, got {y.shape}, {d.shape} and {len(clusters)}"
        raise ValueError(message)
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    if len(names) < _FEWEST or y.min() == y.max() != _TIE:
        return None
    spread = d.std()
    x = np.column_stack([np.ones_like(y), d / spread]) if spread > 0 else np.ones((len(y), 1))
    weights = _fitted(x, y)
    if weights is None:
        return None
    error = _standard_error(x, y, weights, np.array([names[name] for name in clusters]))
    low, value, high = _sigmoid(weights[0] + error * np.array([-_Z, 0.0, _Z])).tolist()
    return Interval(value=value, low=low, high=high, n=len(y))


def _sigmoid(values: Matrix) -> Matrix:
    found: Matrix = 1 / (1 + np.exp(-values))
    return found


def _information(x: Matrix, p: Matrix) -> Matrix:
    found: Matrix = (x * (p * (1 - p))[:, None]).T @ x
    return found


def _fitted(x: Matrix, y: Matrix) -> Matrix | None:
    """Return the weights of largest likelihood by Newton's method; None where they grow without end."""
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = _sigmoid(x @ weights)
        step = np.linalg.lstsq(_information(x, p), x.T @ (y - p), rcond=None)[0]
        weights = weights + step
        if np.abs(weights).max() > _CERTAIN:
            return None
        if np.abs(step).max() < _CLOSE:
            return weights
    return None


def _standard_error(x: Matrix, y: Matrix, weights: Matrix, member: NDArray[np.int64]) -> float:
    """Return the clustered standard error of the intercept."""
    p = _sigmoid(x @ weights)
    scores = x * (y - p)[:, None]
    clusters = int(member.max()) + 1
    sums = np.stack([np.bincount(member, weights=column, minlength=clusters) for column in scores.T], axis=1)
    bread = np.linalg.inv(_information(x, p))
    covariance = bread @ (sums.T @ sums) @ bread * clusters / (clusters - 1)
    return float(np.sqrt(covariance[0, 0]))
