"""How error rates are spent, and what a number of patients can decide."""

from __future__ import annotations

import math


def spend(alpha: float, look: int, carried: float = 0.0) -> float:
    """The level of the look-th candidate (from 1) on one anchor set: alpha * 2^-look, and `carried` on top.

    carried: the level of the look before, where its candidate was shown harmless, else 0. That is the online fallback
    procedure (Tian and Ramdas 2021, "Online control of the familywise error rate"): a rejected hypothesis of harm hands
    its level on, and the probability that any harmful candidate ever passes stays in alpha, however many there are and
    however they depend on each other. Raises ValueError for a look below 1.
    """
    if look < 1:
        raise ValueError(f"looks are counted from 1, not {look}")
    return alpha * 2.0**-look + carried


def decidable(n: int, discordance: float = 0.05, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest margin that n patients can decide: a paired non-inferiority claim at level alpha is shown with this
    power where nothing differs but `discordance`, the share of patients whose answer changes either way.

    (z_alpha + z_power) * sqrt(discordance / n); infinite for n = 0.
    """
    return (quantile(1 - alpha) + quantile(power)) * math.sqrt(discordance / n) if n else math.inf


def power(n: int, margin: float, discordance: float = 0.05, alpha: float = 0.05) -> float:
    """The probability that n patients show a margin where nothing differs (see `decidable`)."""
    from scipy.special import ndtr

    return float(ndtr(margin / math.sqrt(discordance / n) - quantile(1 - alpha))) if n else 0.0


def quantile(probability: float) -> float:
    """Of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(probability))
