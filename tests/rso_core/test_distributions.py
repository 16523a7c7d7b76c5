import numpy as np
import pytest
from scipy import stats

from rso_core.distributions import chi_square_tail, normal_cdf, normal_quantile, t_quantile, t_two_sided

DEGREES = [1, 2, 3, 7, 29, 30, 344, 5000]


@pytest.mark.parametrize("df", DEGREES)
def test_students_t_has_the_librarys_tails(df: int) -> None:
    for t in np.linspace(-60, 60, 241):
        assert t_two_sided(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-8, abs=1e-300)


@pytest.mark.parametrize("df", DEGREES)
def test_students_t_has_the_librarys_quantiles(df: int) -> None:
    for p in (0.5, 0.51, 0.6, 0.8, 0.9, 0.95, 0.975, 0.99, 0.9999):
        assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("df", [1, 2])
def test_chi_square_has_the_librarys_tail(df: int) -> None:
    for x in np.linspace(0, 300, 101):
        assert chi_square_tail(x, df) == pytest.approx(stats.chi2.sf(x, df), rel=1e-9)


def test_the_normal_distribution_is_the_librarys() -> None:
    for z in np.linspace(-8, 8, 101):
        assert normal_cdf(z) == pytest.approx(stats.norm.cdf(z), rel=1e-10)
    for p in (1e-6, 0.025, 0.5, 0.8, 0.975):
        assert normal_quantile(p) == pytest.approx(stats.norm.ppf(p), abs=1e-9)


def test_limits() -> None:
    assert t_two_sided(0.0, 7) == 1
    assert t_two_sided(float("inf"), 7) == 0
    with pytest.raises(ValueError, match="must be 1 or 2, got 3"):
        chi_square_tail(1.0, 3)
