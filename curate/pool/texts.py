"""Text bytes -> tokens: hashes of words, or characters of a small alphabet.

A text is UTF-8, the whole of a `.txt` entry or one field of a `.json` entry. It becomes a row of a fixed
length: what is longer is cut, what is shorter is filled with 0. No vocabulary is built, so a word means
the same number in every pool and on every machine, and a pool of any size is read in one pass.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from curate.errors import SampleError

TEXT_EXTENSION = "txt"
MAX_TEXT_BYTES = 1 << 20  # what lies behind is not read; no proxy looks that far
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/|_#$%^&*~`+=<>()[]{}"
PADDING, SPACE, UNKNOWN = 0, 1, 2
CHARACTERS = 3 + len(ALPHABET)
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_WORD = re.compile(r"\w+|[^\w\s]")
_HASH_MASK = 0x7FFFFFFF


def read_text(data: bytes, field: str = "") -> str:
    """Returns a sample's text.

    Args:
        data: the entry, at most `MAX_TEXT_BYTES` of it.
        field: of a JSON entry; dots lead into objects. Empty where the entry itself is the text.

    Raises:
        SampleError: not UTF-8, NUL bytes, nothing but space, no such field, a JSON entry that is too long.
    """
    text = _field(data, field) if field else _decoded(data)
    if "\0" in text:
        raise SampleError("the text holds NUL characters")
    if not text.strip():
        raise SampleError("the text is empty")
    return text


def words(text: str, length: int) -> NDArray[np.int32]:
    """Returns the hashes of the first words of a text, shape (length,), int32, 1 and above; 0 where there is none.

    Words are runs of letters and digits in lower case, and single marks between them; `<br>` is space.
    The hash is CRC-32 of the word as UTF-8, its highest bit dropped.
    """
    row = np.zeros(length, np.int32)
    found = (match[0] for match in _WORD.finditer(_spaced(text)))
    hashes = [zlib.crc32(word.encode("utf-8", "replace")) & _HASH_MASK or 1 for word in islice(found, length)]
    row[: len(hashes)] = hashes
    return row


def word_count(text: str) -> int:
    """Returns how many words a text has, as `words` counts them."""
    return sum(1 for _ in _WORD.finditer(_spaced(text)))


def characters(text: str, length: int) -> NDArray[np.uint8]:
    """Returns the first characters of a text, shape (length,), uint8: 0 padding, 1 space, 2 unknown, then `ALPHABET`.

    Source: Conneau et al. 2017, arXiv 1606.01781, section 4.2: 69 tokens, in lower case.
    """
    row = np.zeros(length, np.uint8)
    codes = np.frombuffer(text[:length].lower()[:length].encode("utf-32-le", "replace"), np.uint32)
    row[: len(codes)] = _TABLE[np.minimum(codes, len(_TABLE) - 1)]
    return row


def _spaced(text: str) -> str:
    return _BREAK.sub(" ", text).lower()


def _table() -> NDArray[np.uint8]:
    table = np.full(129, UNKNOWN, np.uint8)  # the last place is every character beyond ASCII
    table[[ord(space) for space in " \t\n\r\v\f"]] = SPACE
    table[[ord(character) for character in ALPHABET]] = np.arange(3, CHARACTERS)
    return table


_TABLE = _table()


def _decoded(data: bytes) -> str:
    # A text that was cut at the limit may end within a character.
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        return decoder.decode(data, final=len(data) < MAX_TEXT_BYTES)
    except UnicodeDecodeError as error:
        raise SampleError(f"the text is not UTF-8 (byte {error.start:,})") from None


def _field(data: bytes, field: str) -> str:
    if len(data) >= MAX_TEXT_BYTES:
        raise SampleError(f"the JSON entry has more than {MAX_TEXT_BYTES - 1:,} bytes")
    try:
        value = json.loads(_decoded(data))
    except (ValueError, RecursionError):
        raise SampleError("the JSON entry cannot be parsed") from None
    for part in [field] if isinstance(value, dict) and field in value else field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise SampleError(f"the JSON entry has no text in '{field}'")
    return value.encode("utf-8", "replace").decode()  # half a character, which JSON can say and UTF-8 cannot, becomes ?
