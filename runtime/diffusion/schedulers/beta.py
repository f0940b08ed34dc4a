"""Quantiles of the symmetric Beta distribution, so that SciPy need not be installed."""

import math


def symmetric_beta_ppf(p: float, shape: float) -> float:
    """The x at which a Beta(shape, shape) variable is below with probability p; relative error about 1e-14.

    Newton's method on u = x^shape, in which the distribution function is nearly linear near 0; the upper half follows
    by symmetry. Series: Abramowitz and Stegun, 26.5.4 with 15.1.1.
    """
    if p > 0.5:
        return 1.0 - symmetric_beta_ppf(1.0 - p, shape)
    scale = math.exp(2 * math.lgamma(shape) - math.lgamma(2 * shape)) * shape  # shape * B(shape, shape)
    u = p * scale
    for _ in range(50):
        x = u ** (1 / shape)
        change = (u * _tail(x, shape) / scale - p) * scale / (1 - x) ** (shape - 1)
        u = max(u - change, 0.0)
        if abs(change) <= 1e-16 * u:
            break
    return float(u ** (1 / shape))


def _tail(x: float, shape: float) -> float:
    """Shape * B_x(shape, shape) / x^shape, a power series in x that halves at least each term for x up to 1/2."""
    total = term = 1.0
    n = 0
    while abs(term) > 1e-18 * total:
        n += 1
        term *= x * (n - shape) / n
        total += term * shape / (shape + n)
    return total
