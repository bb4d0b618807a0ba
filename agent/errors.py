"""What people are told when something can't be done: one sentence that names the thing and the way out."""

from __future__ import annotations


class HomeostatError(Exception):
    """The call, the configuration or the input is wrong."""

    exit_code = 2


class DiskFull(HomeostatError):
    """There is no space left; nothing was changed."""


class Refused(HomeostatError):
    """The question was answered, and the answer is no."""

    exit_code = 1


class NotEnoughEvidence(HomeostatError):
    """There is too little evidence to answer."""

    exit_code = 3
