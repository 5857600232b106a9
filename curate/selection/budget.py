"""How many samples to keep and to set aside: what a person wrote, and what it comes to.

A value with a point or a per cent sign is a fraction, a whole number is a count. All arithmetic is
exact: 0.29 of 100 is 29, though 0.29 as a float is a little less.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from curate.errors import UsageError

# At most 18 digits on either side: more say nothing, and long ones are slow to convert.
_NUMBER = re.compile(r"(?P<sign>-?)(?P<number>\d{1,18}|\d{1,18}\.\d{0,18}|\.\d{1,18})\s?(?P<percent>%?)", re.ASCII)


@dataclass(frozen=True)
class Amount:
    """A fraction of a total, or a count.

    Attributes:
        text: as it was written.
        value: the fraction in [0, 1], or the count.
        is_fraction: tells which.
        what: the word for it in messages.
    """

    text: str
    value: Fraction
    is_fraction: bool
    what: str

    def of(self, total: int) -> int:
        """Returns the number of samples out of `total`; fractions are rounded half up.

        Raises:
            UsageError: a count is more than the total.
        """
        if self.is_fraction:
            return math.floor(self.value * total + Fraction(1, 2))
        if self.value > total:
            raise UsageError(
                f"{self.what} '{self.text}': {int(self.value):,} samples were asked for, but there are {total:,}",
                hint="Ask for fewer, or for a fraction such as 0.5.",
            )
        return int(self.value)


@dataclass(frozen=True)
class Keep(Amount):
    """What to keep: a fraction in (0, 1] or a count of at least 2; see `parse_keep`."""

    def budget(self, total: int) -> int:
        """Returns how many of `total` samples to keep, at least 1; fractions are rounded half up.

        Raises:
            UsageError: a count is more than the total, or nothing would be kept.
        """
        kept = self.of(total)
        if kept < 1:
            raise UsageError(
                f"{self.what} '{self.text}' of {total:,} samples is {float(self.value * total):.3g}, rounded to 0",
                hint="At least one sample must be kept: ask for a larger fraction, or a count.",
            )
        return kept


@dataclass(frozen=True)
class Outliers(Amount):
    """What to set aside before keeping: a fraction in [0, 1) or a count; see `parse_outliers`."""


def parse_keep(text: str, *, what: str = "keep") -> Keep:
    """Returns what to keep: "0.8", "80%" and "1.0" are fractions in (0, 1], "640000" is a count.

    Args:
        text: as a person wrote it.
        what: the word for it in messages, the option's.

    Raises:
        UsageError: neither; or a bare 1, which could mean everything or one sample.
    """
    value, is_fraction = _parse(text, what=what, example="0.8, 80% or a count such as 40000")
    if not is_fraction and value == 1:
        raise UsageError(
            f"{what} '{text}' is ambiguous: everything, or one sample?",
            hint="1.0 or 100% keeps everything; a count starts at 2.",
        )
    if value <= 0 or (is_fraction and value > 1):
        raise UsageError(
            f"{what} '{text}' is out of range",
            hint="A fraction lies above 0 and is at most 1 (0.8, 80%); a count starts at 2.",
        )
    return Keep(text, value, is_fraction, what)


def parse_outliers(text: str) -> Outliers:
    """Returns what to set aside: "0.05" and "5%" are fractions in [0, 1), "0" and "500" are counts.

    A bare 1 is one sample: everything cannot be set aside.

    Raises:
        UsageError: neither.
    """
    value, is_fraction = _parse(text, what="outliers", example="0.05, 5% or a count such as 500")
    if value < 0 or (is_fraction and value >= 1):
        raise UsageError(
            f"outliers '{text}' is out of range",
            hint="A fraction is at least 0 and lies below 1 (0.05, 5%); a count starts at 0.",
        )
    return Outliers(text, value, is_fraction, "outliers")


def divide(keep: Keep, outliers: Outliers, total: int) -> tuple[int, int]:
    """Returns how many of `total` samples to keep, and how many to set aside; the sum is ≤ total.

    Two fractions that sum to at most 1 always fit: where both round up to one sample too many (half
    of 3 and half of 3), the outliers give way.

    Raises:
        UsageError: they do not fit, nothing would be kept, or a count is more than the total.
    """
    kept, aside = keep.budget(total), outliers.of(total)
    hint = "Both are counted from all scored samples: fractions sum to at most 1, counts to the total."
    if keep.is_fraction and outliers.is_fraction:
        both = keep.value + outliers.value
        if both > 1:
            raise UsageError(
                f"{keep.what} '{keep.text}' and outliers '{outliers.text}' sum to {float(both):.6g}, more than 1",
                hint=hint,
            )
        return kept, min(aside, total - kept)
    if kept + aside > total:
        raise UsageError(
            f"{keep.what} '{keep.text}' and outliers '{outliers.text}' of {total:,} samples are "
            f"{kept:,} + {aside:,} = {kept + aside:,}, which is {kept + aside - total:,} too many",
            hint=hint,
        )
    return kept, aside


def _parse(text: str, *, what: str, example: str) -> tuple[Fraction, bool]:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{what} '{text}' is not a number", hint=f"Expected {example}.")
    number, percent = match["number"], match["percent"]
    value = Fraction(number) / (100 if percent else 1)
    return (-value if match["sign"] else value), bool(percent) or "." in number
