"""Measures of the output form *regions*: every one is `measure(regions, weights[B, n]) -> [B]`.

Weights are what they are in monitors.measures. Cases without a mask have no weight; NaN where no case has one.
"""

from __future__ import annotations

import numpy as np

from monitors.measures import mean_over_cases, ratio, weights_of
from monitors.protocols import Float, Regions


def dice(regions: Regions, weights: Float | None = None) -> Float:
    """Mean over the cases of the case's Dice, 0..1; see `case_dice`."""
    return mean_over_cases(regions, weights, regions.once(_read_dice))


def pixel_brier(regions: Regions, weights: Float | None = None) -> Float:
    """Mean over the cases of the Brier score of their pixels, 0..1."""
    return mean_over_cases(regions, weights, np.where(regions.known, regions.brier, 0.0))


def pixel_nll(regions: Regions, weights: Float | None = None) -> Float:
    """Mean over the cases of the log-loss of their pixels, in nats."""
    return mean_over_cases(regions, weights, np.where(regions.known, regions.nll, 0.0))


def dice_per_structure(regions: Regions, weights: Float | None = None) -> Float:
    """[B, s]: of each structure the mean over the cases in which it is true or said; NaN where there is none."""
    w, each = weights_of(regions, weights), structure_dice(regions)
    there = ~np.isnan(each)
    return ratio(w @ np.where(there, each, 0.0), w @ there.astype(np.float64))


def case_dice(regions: Regions) -> Float:
    """[n], 0..1: the mean Dice of the structures that are in what is true or in what was said (Dice 1945).

    A structure that is in one of the two only counts 0, so that what was invented costs as much as what was missed. One
    that is in neither is left out; a case that has none in either counts 1, a mask rightly left empty. NaN where there
    is no mask.
    """
    return regions.once(_case_dice)


def structure_dice(regions: Regions) -> Float:
    """[n, s], 0..1; NaN where a structure is neither true nor said, and where there is no mask."""
    both, said, true = np.moveaxis(np.where(regions.known[:, None, None], regions.overlap, 0.0), 2, 0)
    return ratio(2.0 * both, said + true)


def _case_dice(regions: Regions) -> Float:
    each = structure_dice(regions)
    there = ~np.isnan(each)
    mean = np.where(there, each, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return np.where(regions.known, np.where(there.any(axis=1), mean, 1.0), np.nan)


def _read_dice(regions: Regions) -> Float:
    return np.nan_to_num(case_dice(regions))
