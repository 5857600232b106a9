"""fastText, registered with timm: the mean of the vectors of a text's words and word n-grams, and one linear layer.

Every word and every n-gram has its place in one table by its hash, so memory depends on the number of
buckets alone, and a step touches only the rows of what it has read.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

from curate.pool.texts import PADDING

_MIX = 116_049_371  # fastText's own factor; odd, so that no bit of a word is lost


class FastText(nn.Module):
    """A bag of hashed words and n-grams.

    Source: Joulin et al. 2017, arXiv 1607.01759, section 2. Here words share the buckets of the n-grams
        instead of having a dictionary, and the softmax is over all classes.

    Args:
        num_classes: from the pool.
        dim: of the vectors.
        ngrams: up to how many words in a row have a vector.
        buckets: rows of the table.
    """

    def __init__(self, *, num_classes: int, dim: int = 10, ngrams: int = 2, buckets: int = 1 << 20) -> None:
        super().__init__()
        self.ngrams, self.buckets, self.num_features = ngrams, buckets, dim
        self.embedding = nn.EmbeddingBag(buckets, dim, mode="mean", sparse=True)
        nn.init.uniform_(self.embedding.weight, -1 / dim, 1 / dim)
        self.fc = nn.Linear(dim, num_classes)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward_features(self, words_BL: Tensor) -> Tensor:
        """Returns the mean vectors, shape (B, dim), of texts that begin at the left and are filled with 0."""
        size_B = (words_BL != PADDING).sum(1)
        hash_BL = words_BL[:, : max(1, int(size_B.max()))].long()
        place_L = torch.arange(hash_BL.shape[1], device=hash_BL.device)
        grams, reals = [hash_BL], [place_L < size_B[:, None]]
        for before in range(1, min(self.ngrams, hash_BL.shape[1])):
            grams.append(grams[-1][:, :-1] * _MIX + hash_BL[:, before:])
            reals.append(reals[0][:, before:])
        is_real = torch.cat(reals, 1)
        ends_B = is_real.sum(1).cumsum(0)
        starts_B = torch.cat([ends_B.new_zeros(1), ends_B[:-1]])
        means_BD: Tensor = self.embedding(torch.cat(grams, 1)[is_real].remainder(self.buckets), starts_B)
        return means_BD

    def forward_head(self, means_BD: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits, or the mean vectors as they are."""
        logits: Tensor = means_BD if pre_logits else self.fc(means_BD)
        return logits

    def forward(self, words_BL: Tensor) -> Tensor:
        """Returns logits of (B, num_classes)."""
        return self.forward_head(self.forward_features(words_BL))

    def get_classifier(self) -> nn.Module:
        """Returns the last layer, as timm's networks do."""
        return self.fc

    def forward_flops(self, length: int) -> int:
        """Returns the operations of a text of so many words: the sum of its vectors, and the classifier."""
        grams = sum(max(0, length - before) for before in range(self.ngrams))
        return self.num_features * (grams + 2 * self.fc.out_features)


@register_model
def fasttext(pretrained: bool = False, **arguments: Any) -> nn.Module:  # noqa: ARG001  (timm hands it over)
    """A fastText of 10 dimensions, words and word pairs in 1,048,576 buckets."""
    arguments = {name: arguments[name] for name in ("num_classes", "dim", "ngrams", "buckets") if name in arguments}
    return FastText(**arguments)
