"""Every recipe, run whole on a tiny network and images of two sites: what it writes, keeps, refuses and repeats."""

from __future__ import annotations
