"""Quantiles against published tables."""

import pytest

from tuner.quantiles import chi_square_quantile, f_quantile, incomplete_gamma


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [(0.95, 3, 7.815), (0.975, 10, 20.483), (0.025, 10, 3.247), (0.5, 100, 99.334)],
)
def test_chi_square(probability, freedom, expected):
    """The figures of the tables, to the digits that they have."""
    assert expected == pytest.approx(chi_square_quantile(probability, freedom), abs=6e-4)


@pytest.mark.parametrize(
    ("probability", "above", "below", "expected"),
    [(0.95, 3, 10, 3.708), (0.975, 5, 20, 3.289), (0.05, 4, 4, 1 / 6.388)],
)
def test_f(probability, above, below, expected):
    """The figures of the tables, to the digits that they have."""
    assert expected == pytest.approx(f_quantile(probability, above, below), abs=6e-4)


def test_the_gamma_function_has_its_ends():
    """It is a distribution: 0 at 0, 1 far out."""
    assert 0.0 == incomplete_gamma(2.0, 0.0)
    assert 1.0 == pytest.approx(incomplete_gamma(2.0, 80.0))


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_nonsense_is_refused(probability, freedom):
    """There is no such quantile."""
    with pytest.raises(ValueError, match="no quantile"):
        chi_square_quantile(probability, freedom)
