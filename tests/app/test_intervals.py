"""Means and their intervals are those of SciPy."""

import pytest
from scipy import stats

from app.services.intervals import mean_of, quantile


@pytest.mark.parametrize("freedom", [1, 2, 5, 20, 21, 31, 200])
def test_quantiles_are_those_of_students_t(freedom):
    assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-4)


def test_the_mean_of_none_and_of_one():
    assert mean_of([]) is None
    assert mean_of([2.0]) == (2.0, None, 1)


def test_values_at_the_end_of_floats_have_a_mean_and_no_interval():
    """What a job reports may be as large as floats go; differences of such values are infinite."""
    assert mean_of([1e308, 1e308]) == (1e308, (1e308, 1e308), 2)
    assert mean_of([1e308, -1e308]) == (0, None, 2)
    assert mean_of([1e308 - -1e308, 0.0]) is None
