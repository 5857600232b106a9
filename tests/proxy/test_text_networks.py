"""The networks of texts by their definitions: sizes, sums, order, and what a step touches."""

from typing import Any

import numpy as np
import pytest
import torch

from curate.pool.texts import CHARACTERS, characters, words
from curate.proxy.models import ModelSpec, TextSpec, build_model, forward_flops, parameter_count
from curate.proxy.training import build_optimizer
from curate.proxy.vdcnn import KMaxPool
from curate.recipe import Recipe, Train


def spec_of(name: str, *, classes: int = 2, length: int = 1014, **options: Any) -> ModelSpec:
    text = {"length": length, "dim": 10, "ngrams": 2, "buckets": 1 << 20, "pooling": "max", **options}
    return ModelSpec(name, classes, 0, 0, "native", text=TextSpec(**text))


def convolutions(*levels: int) -> int:
    """The weights of a VDCNN's convolutions and norms: 3 wide, 16 -> 64, then each level's."""
    total, before = 16 * 64 * 3 + 64, 64
    for wide, count in zip((64, 128, 256, 512), levels, strict=True):
        total += 3 * wide * (before + (count - 1) * wide) + 2 * wide * count
        before = wide
    return total


@pytest.mark.parametrize(
    ("name", "levels", "millions"),
    [("vdcnn9", (2, 2, 2, 2), 14.17), ("vdcnn17", (4, 4, 4, 4), 16.26), ("vdcnn29", (10, 10, 4, 4), 16.64)],
)
@pytest.mark.parametrize("pooling", ["max", "conv", "kmax"])
def test_a_vdcnn_has_the_layers_of_the_paper(name: str, levels: tuple[int, ...], millions: float, pooling: str) -> None:
    model = build_model(spec_of(name, pooling=pooling), seed=0).eval()
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(torch.nn.Conv1d) == int(name[5:]) == 1 + sum(levels)
    linear = 4096 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 2 + 2
    assert parameter_count(model) == CHARACTERS * 16 + convolutions(*levels) + linear
    assert parameter_count(model) / 1e6 == pytest.approx(millions, abs=0.01)
    with torch.inference_mode():
        maps = model.forward_features(torch.ones(2, 128, dtype=torch.uint8))  # type: ignore[operator]
        assert maps.shape == (2, 512, 8)
        assert model.forward_head(maps, pre_logits=True).shape == (2, 2048)  # type: ignore[operator]


def test_the_multiply_adds_of_vdcnn9_are_counted() -> None:
    lengths = (1014, 507, 254, 127)
    by_hand = 1014 * 16 * 64 * 3 + 4096 * 2048 + 2048 * 2048 + 2048 * 2
    before = 64
    for wide, length in zip((64, 128, 256, 512), lengths, strict=True):
        by_hand += length * 3 * wide * (before + wide)
        before = wide
    assert forward_flops(spec_of("vdcnn9")) == 2 * by_hand


def test_k_max_pooling_keeps_the_order() -> None:
    maps = torch.tensor([[[1.0, 9.0, 3.0, 7.0], [4.0, 3.0, 2.0, 1.0]]])
    assert KMaxPool(2)(maps).tolist() == [[[9.0, 7.0], [4.0, 3.0]]]
    assert torch.equal(KMaxPool()(maps), KMaxPool(2)(maps))


def test_fasttext_is_the_mean_of_the_vectors_of_words_and_pairs() -> None:
    model = build_model(spec_of("fasttext", buckets=97, dim=3), seed=1)
    table = model.embedding.weight.detach().numpy()  # type: ignore[union-attr, operator]
    rows = np.stack([words(text, 6) for text in ("a good film", "bad", "so so so so so so so")])
    found = model.forward_features(torch.from_numpy(rows)).detach().numpy()  # type: ignore[operator]
    for row, mean in zip(rows.astype(np.int64), found, strict=True):
        hashes = row[row > 0]
        pairs = hashes[:-1] * 116_049_371 + hashes[1:]
        assert mean == pytest.approx(table[np.concatenate([hashes, pairs]) % 97].mean(0), abs=1e-6)


def test_pairs_say_which_word_comes_first() -> None:
    bigrams, bags = (build_model(spec_of("fasttext", ngrams=n), seed=0) for n in (2, 1))
    rows = torch.from_numpy(np.stack([words(text, 3) for text in ("not good bad", "good not bad")]))
    assert torch.allclose(*bags.forward_features(rows))  # type: ignore[operator]
    assert not torch.allclose(*bigrams.forward_features(rows))  # type: ignore[operator]


def test_filling_and_the_length_of_a_row_change_nothing() -> None:
    for name, reader in (("fasttext", words), ("vdcnn9", characters)):
        model = build_model(spec_of(name, ngrams=3), seed=0).eval()
        short, long = (torch.from_numpy(reader("a b", length)[None]) for length in (64, 128))
        if name == "fasttext":
            assert torch.equal(model.forward_features(short), model.forward_features(long))  # type: ignore[operator]
        assert model(short).shape == model(long).shape == (1, 2)


def test_a_step_changes_the_rows_that_were_read_and_no_other() -> None:
    model = build_model(spec_of("fasttext", buckets=1000, ngrams=1), seed=0)
    torch.nn.init.ones_(model.fc.weight[0])  # type: ignore[union-attr, index]
    before = model.embedding.weight.detach().clone()  # type: ignore[union-attr, operator]
    optimizer = build_optimizer(model, Train(momentum=0.9, weight_decay=0.1, rate=1.0))
    row = words("one two three", 4)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.from_numpy(row[None])), torch.tensor([1])).backward()
        optimizer.step()
    changed = (model.embedding.weight != before).any(1).nonzero()[:, 0].tolist()  # type: ignore[union-attr]
    assert sorted(set((row[:3] % 1000).tolist())) == changed


def test_fasttext_counts_a_sum_for_each_vector() -> None:
    assert forward_flops(spec_of("fasttext", length=100)) == 10 * (100 + 99) + 2 * 10 * 2
    assert parameter_count(build_model(spec_of("fasttext"), seed=0)) == 10 * (1 << 20) + 10 * 2 + 2


def test_a_recipe_of_a_text_network_is_trained_as_published() -> None:
    plain, shorter = (Recipe.model_validate({"proxy": {"name": "vdcnn9"}, "train": t}) for t in ({}, {"epochs": 5}))
    assert (plain.train.rate, plain.train.epochs, plain.train.milestones) == (0.01, 15, (3, 6, 9, 12))
    assert shorter.train.milestones == (1, 2, 3, 4)
    own = Recipe.model_validate({"proxy": {"name": "fasttext"}, "train": {"rate": 1.0}})
    assert (own.train.rate, own.train.momentum, own.train.epochs) == (1.0, 0.0, 5)
    assert "text" not in Recipe().model_dump()
    texts = Recipe.model_validate({"text": {"dim": 20}})
    assert Recipe.model_validate(texts.model_dump()) == texts
