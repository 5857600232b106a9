"""What a person writes for how much to keep, and what it comes to."""

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import UsageError
from curate.selection.budget import divide, parse_keep, parse_outliers


@pytest.mark.parametrize(
    ("text", "total", "budget"),
    [
        ("0.5", 3, 2),  # 1.5 is rounded up, not to even
        ("0.5", 5, 3),
        ("0.29", 100, 29),  # 0.29 · 100 as floats is 28.999999999999996
        ("0.57", 100, 57),  # and this 56.99999999999999
        ("0.145", 100, 15),  # 14.5, though the float is below
        ("1.0", 7, 7),
        ("1.", 7, 7),
        (".25", 8, 2),
        ("100%", 7, 7),
        ("80%", 10, 8),
        ("12.5 %", 1000, 125),
        (" 0.8 ", 10, 8),
        ("0.333333333333333333", 3_000_000_000, 1_000_000_000),
        ("2", 2, 2),
        ("640000", 1_281_167, 640_000),
    ],
)
def test_a_budget(text, total, budget):
    assert budget == parse_keep(text).budget(total)


@given(st.decimals("0.0001", 1, places=4), st.integers(10_000, 10**12))
@settings(max_examples=200, deadline=None)
def test_a_fraction_is_rounded_half_up_exactly(fraction, total):
    expected = int((fraction * total).quantize(Decimal(1), ROUND_HALF_UP))
    assert expected == parse_keep(str(fraction)).budget(total)


@pytest.mark.parametrize(
    "text",
    [
        *("0", "0.0", "0%", "-1", "-0.5", "1.01", "101%", "nan", "inf", "", " ", ".", "%", "0.5x", "1e-1"),
        *("0,5", "5 000", "1_000", "0x10", "--2", "1/2", "\u0665", "0." + "1" * 30, "9" * 5000),
    ],
)
def test_what_is_no_amount_to_keep_is_refused(text):
    with pytest.raises(UsageError):
        parse_keep(text)


@pytest.mark.parametrize("text", ["1", "01", " 1 "])
def test_a_bare_one_is_ambiguous(text):
    with pytest.raises(UsageError, match=r"ambiguous[\s\S]*1\.0 or 100%[\s\S]*count"):
        parse_keep(text)


def test_the_text_is_remembered_as_it_was_written():
    assert parse_keep("80 %").text == "80 %"
    assert parse_outliers("0.050").text == "0.050"


def test_a_count_above_the_total_is_refused():
    with pytest.raises(UsageError, match="keep '11': 11 samples were asked for, but there are 10"):
        parse_keep("11").budget(10)
    with pytest.raises(UsageError, match="there are 10"):
        parse_outliers("11").of(10)


def test_keeping_nothing_is_refused():
    with pytest.raises(UsageError, match="rounded to 0"):
        parse_keep("0.1").budget(4)
    with pytest.raises(UsageError, match="rounded to 0"):
        parse_keep("1.0").budget(0)


@pytest.mark.parametrize(
    ("text", "aside"),
    [("0", 0), ("0.0", 0), ("0%", 0), ("1", 1), ("7", 7), ("0.125", 1), ("12.5%", 1), ("0.0625", 1)],
)
def test_outliers_of_eight(text, aside):
    assert aside == parse_outliers(text).of(8)


@pytest.mark.parametrize("text", ["1.0", "100%", "-1", "-0.1", "nan", "", "few"])
def test_what_is_no_amount_of_outliers_is_refused(text):
    with pytest.raises(UsageError, match="outliers"):
        parse_outliers(text)


@pytest.mark.parametrize(
    ("keep", "outliers", "total", "expected"),
    [
        ("0.5", "0.125", 8, (4, 1)),
        ("0.5", "0", 8, (4, 0)),
        ("0.5", "0.5", 8, (4, 4)),
        ("0.5", "0.5", 3, (2, 1)),  # both round up to 2: the outliers give way
        ("5", "3", 8, (5, 3)),
    ],
)
def test_keep_and_outliers_share_the_total(keep, outliers, total, expected):
    assert expected == divide(parse_keep(keep), parse_outliers(outliers), total)


@pytest.mark.parametrize(("keep", "outliers"), [("6", "3"), ("0.8", "3"), ("6", "0.4")])
def test_more_than_everything_is_refused_with_the_sum(keep, outliers):
    kept, aside = parse_keep(keep).budget(8), parse_outliers(outliers).of(8)
    with pytest.raises(UsageError, match=rf"{kept} \+ {aside} = {kept + aside}, which is {kept + aside - 8} too"):
        divide(parse_keep(keep), parse_outliers(outliers), 8)


def test_fractions_above_one_are_refused_also_where_they_round_to_fit():
    with pytest.raises(UsageError, match=r"'0.8' and outliers '0.3' sum to 1.1, more than 1"):
        divide(parse_keep("0.8"), parse_outliers("0.3"), 8)


@given(st.integers(1, 1000), st.integers(0, 999), st.integers(1000, 5000))
@settings(max_examples=100, deadline=None)
def test_fractions_up_to_one_always_fit(kept, aside, total):
    aside = min(aside, 1000 - kept)
    keep, outliers = parse_keep(f"{kept / 10:.1f}%"), parse_outliers(f"{aside / 10:.1f}%")
    budget, zone = divide(keep, outliers, total)
    assert budget + zone <= total
    assert zone in (outliers.of(total), outliers.of(total) - 1)
