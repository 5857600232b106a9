"""Tokens: what a text proxy reads of each text, kept and streamed as the pixels of images are.

A row has one length for the whole pool, so every text takes the same place in a store, and the memory of
a batch is known before it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import SampleError
from curate.pool.texts import characters, read_text, word_count, words

VDCNN_LENGTH = 1014  # characters: Conneau et al. 2017, section 4.2
LOOK_SHARE, LENGTH_STEP, MOST_WORDS = 99, 32, 1024
READERS: dict[str, Callable[[str, int], NDArray[Any]]] = {"words": words, "characters": characters}


@dataclass(frozen=True)
class Tokens:
    """What every row of a text pool is decoded to.

    Attributes:
        reads: `words` or `characters`, see `curate.pool.texts`.
        length: of a row; what is longer is cut.
        text_field: of JSON entries, empty for plain text.
    """

    reads: str
    length: int
    text_field: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int32 if self.reads == "words" else np.uint8)

    @property
    def row_bytes(self) -> int:
        return self.length * self.dtype.itemsize

    @property
    def of_row(self) -> tuple[int, ...]:
        return (self.length,)

    def decode(self, texts: Sequence[bytes]) -> list[NDArray[Any] | SampleError]:
        """Returns each text's tokens, shape (length,), or the reason why it has none."""
        return [self._row(data) for data in texts]

    def _row(self, data: bytes) -> NDArray[Any] | SampleError:
        try:
            return READERS[self.reads](read_text(data, self.text_field), self.length)
        except SampleError as error:
            return error


def words_of_most(texts: Sequence[str]) -> int:
    """Returns the length of a row that 99 of 100 texts fit into, rounded up, at most `MOST_WORDS`."""
    share = np.percentile([word_count(text) for text in texts], LOOK_SHARE)
    return min(MOST_WORDS, max(1, -(-int(share) // LENGTH_STEP)) * LENGTH_STEP)
