"""Bytes of texts become tokens; what is no text says why."""

import json
import zlib

import numpy as np
import pytest

from curate.errors import SampleError
from curate.pool.texts import ALPHABET, CHARACTERS, MAX_TEXT_BYTES, characters, read_text, word_count, words


def test_words_are_lower_case_runs_and_single_marks_and_breaks_are_space() -> None:
    expected = [zlib.crc32(word.encode()) & 0x7FFFFFFF for word in ("it", "'", "s", "größe", "7", "!", "!")]
    row = words("It's<br /><BR>GRÖSSE 7!!".replace("SS", "ß"), 10)
    assert [*expected, 0, 0, 0] == row.tolist()
    assert row.dtype == np.int32
    assert word_count("It's<br />Größe 7!!") == 7


def test_what_is_longer_than_a_row_is_cut() -> None:
    assert words("one two three", 2).tolist() == words("one two", 2).tolist()
    assert characters("abc" * 9, 4).tolist() == [3, 4, 5, 3]


def test_the_alphabet_is_that_of_the_paper() -> None:
    assert len(set(ALPHABET)) == len(ALPHABET)
    assert CHARACTERS == 69
    assert characters("aZ9 \t\né\U0001f600", 10).tolist() == [3, 28, 38, 1, 1, 1, 2, 2, 0, 0]
    assert characters(ALPHABET, 66).tolist() == list(range(3, 69))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b" \n\t ", "empty"),
        (b"good \xff bad", "not UTF-8 (byte 5)"),
        ("zwölf".encode("latin-1"), "not UTF-8"),
        ("a text".encode("utf-16"), "not UTF-8"),
        ("a text".encode("utf-16-le"), "NUL"),
        (b"a\0b", "NUL"),
    ],
)
def test_what_is_no_text_is_bad_with_its_reason(data: bytes, said: str) -> None:
    with pytest.raises(SampleError) as error:
        read_text(data)
    assert said in str(error.value)


def test_a_mark_of_byte_order_is_no_character() -> None:
    assert read_text(b"\xef\xbb\xbfhello") == "hello"


def test_a_text_cut_within_a_character_is_read_up_to_it() -> None:
    data = ("x" * (MAX_TEXT_BYTES - 1) + "ö").encode()[:MAX_TEXT_BYTES]
    assert read_text(data) == "x" * (MAX_TEXT_BYTES - 1)
    assert words(read_text(data), 4).tolist() == [zlib.crc32(b"x" * (MAX_TEXT_BYTES - 1)) & 0x7FFFFFFF, 0, 0, 0]


@pytest.mark.parametrize(
    ("entry", "field", "said"),
    [
        ({"text": 7}, "text", "no text in 'text'"),
        ({"text": None}, "text", "no text in 'text'"),
        ({"review": {}}, "review.body", "no text in 'review.body'"),
        ([1], "text", "no text in 'text'"),
        ({"text": "a\0"}, "text", "NUL"),
    ],
)
def test_a_json_entry_without_the_field_is_bad(entry: object, field: str, said: str) -> None:
    with pytest.raises(SampleError) as error:
        read_text(json.dumps(entry).encode(), field)
    assert said in str(error.value)


def test_a_field_may_lie_deeper_or_have_a_dot_in_its_name() -> None:
    assert read_text(b'{"review": {"body": "deep"}}', "review.body") == "deep"
    assert read_text(b'{"review.body": "flat"}', "review.body") == "flat"
    with pytest.raises(SampleError, match="cannot be parsed"):
        read_text(b"{", "text")
    with pytest.raises(SampleError, match="more than"):
        read_text(b'{"text": "' + b"x" * MAX_TEXT_BYTES, "text")
