"""Every error a person can meet, drawn as one tree.

    CurateError                exit 1   something failed
    ├── UsageError             exit 2   the command asked for something that cannot be
    │   └── RecipeError        exit 2   a recipe says something that cannot be
    ├── ShardError             exit 1   a shard is damaged: its samples cannot be counted
    ├── ScoreError             exit 1   scores are missing, not finite, or do not fit together
    ├── ManifestError          exit 1   a manifest or its sources are not what they claim
    ├── DivergedError          exit 1   training left the numbers: a loss or a prediction is not finite
    ├── RunError               exit 1   a run directory belongs to another pool or recipe, or is in use
    ├── TooMuchBadDataError    exit 4   more bad samples than the limit allows
    └── TimeUpError            exit 6   the time that was allowed is over; what is finished is kept
    SampleError                —        one bad sample; counted and listed, never stops a run

A message says what happened and where; the hint says what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable


class CurateError(Exception):
    """The root of the tree; `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(CurateError):
    """The command asked for something that cannot be."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe says something that cannot be."""


class ShardError(CurateError):
    """A shard is damaged, so that its samples cannot be counted."""


class ScoreError(CurateError):
    """Scores are missing, not finite, or do not fit together."""


class ManifestError(CurateError):
    """A manifest or its sources are not what they claim to be."""


class DivergedError(CurateError):
    """A loss or a prediction is not finite. `seed` is that of the member."""

    def __init__(self, message: str, *, seed: int) -> None:
        super().__init__(message, hint="Lower train.rate, or set train.precision = 'float32'.")
        self.seed = seed


class RunError(CurateError):
    """A run directory belongs to another pool or recipe, or is in use."""


class TooMuchBadDataError(CurateError):
    """More bad samples than the limit allows."""

    exit_code = 4


class TimeUpError(CurateError):
    """The time that was allowed is over; what is finished is kept, and the same command goes on."""

    exit_code = 6


class SampleError(Exception):
    """One bad sample: the reason is listed and counted, and the run goes on."""


MOST_KNOWN = 40  # words that a sentence names


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Returns a sentence that names the closest known word, or all of them."""
    import difflib  # only for who mistypes

    known = sorted(words)
    close = difflib.get_close_matches(word.lower(), known, n=1)
    if close:
        return f"Did you mean '{close[0]}'?"
    more = f", … ({len(known):,} in all)" if len(known) > MOST_KNOWN else ""
    return f"Known: {', '.join(known[:MOST_KNOWN])}{more}."
