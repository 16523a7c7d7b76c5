"""Tail probabilities of the normal, Student's t and χ² distributions, in plain Python: nothing else here needs scipy.

The t distribution's is the regularised incomplete beta function by its continued fraction (Lentz's algorithm, as in
*Numerical Recipes* §6.4), correct to about 1e-12.
"""

import math
from functools import lru_cache
from statistics import NormalDist

_TINY = 1e-300
_PRECISION = 1e-15
_MOST_TERMS = 10_000

_NORMAL = NormalDist()


def normal_cdf(z: float) -> float:
    """Return P(Z ≤ z)."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def normal_quantile(p: float) -> float:
    """Return the z with P(Z ≤ z) = p, 0 < p < 1."""
    return _NORMAL.inv_cdf(p)


def t_two_sided(t: float, df: int) -> float:
    """Return P(|T| ≥ |t|) with `df` degrees of freedom."""
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(df / 2, 0.5, df / (df + t * t))


@lru_cache(maxsize=4096)
def t_quantile(p: float, df: int) -> float:
    """Return the t with P(T ≤ t) = p, for ½ ≤ p < 1, by bisection."""
    low, high = 0.0, 1.0
    while t_two_sided(high, df) / 2 > 1 - p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, df) / 2 > 1 - p else (low, middle)
    return (low + high) / 2


def chi_square_tail(x: float, df: int) -> float:
    """Return P(χ² ≥ x) for 1 or 2 degrees of freedom, in closed form: erfc(√(x/2)) and exp(−x/2)."""
    if df not in (1, 2):
        message = f"`df` must be 1 or 2, got {df}"
        raise ValueError(message)
    return math.erfc(math.sqrt(x / 2)) if df == 1 else math.exp(-x / 2)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _continued_fraction(a, b, x) / a
    return 1 - front * _continued_fraction(b, a, 1 - x) / b


def _continued_fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _MOST_TERMS):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + numerator * d)
            c = _away_from_zero(1 + numerator / c)
            result *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return result


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
