"""Keyed hashes of what identifies a patient: the same under one key, unlinkable under another, never turned back."""

from __future__ import annotations

import hmac
from hashlib import sha256


def patient_key(key: bytes, raw_id: str) -> str:
    """HMAC-SHA256 of the raw id under the workspace's key, cut to 128 bits: 32 hexadecimal digits."""
    return _keyed(key, "patient", raw_id)


def study_key(key: bytes, raw_id: str) -> str:
    """The same for a study's identifier, so that a study and a patient of one name stay apart."""
    return _keyed(key, "study", raw_id)


def _keyed(key: bytes, kind: str, raw_id: str) -> str:
    return hmac.new(key, f"{kind}\0{raw_id}".encode(), sha256).hexdigest()[:32]
