"""Which samples are kept, and why the others are not."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curate.errors import ScoreError, UsageError
from curate.selection.quotas import quotas
from curate.selection.strata import KEPT, NEVER, OUTLIER, RANK, REASONS, select


def pool(scores, labels=None):
    score_N = np.array(scores, dtype=np.float64)
    identity_N = np.arange(len(scores), dtype=np.uint64)
    return score_N, None, identity_N, None if labels is None else np.array(labels)


def mask(size, *rows):
    mask_N = np.zeros(size, dtype=bool)
    mask_N[list(rows)] = True
    return mask_N


def kept(selection):
    return np.flatnonzero(selection.kept_N).tolist()


@pytest.mark.parametrize(("outliers", "expected"), [(0, [1, 3, 4, 6]), (1, [3, 4, 6, 7]), (2, [0, 4, 6, 7])])
def test_outliers_are_skipped_at_the_top(outliers, expected):
    selection = select(*pool([3, 8, 1, 7, 5, 2, 6, 4]), budget=4, outliers=outliers)
    assert expected == kept(selection)
    assert {"kept": 4, "rank": 4 - outliers, "outlier": outliers, "never": 0} == selection.counts


def test_outliers_are_the_highest_scores_whichever_end_is_kept():
    selection = select(*pool([3, 8, 1, 7]), budget=2, outliers=1, order="easiest")
    assert selection.reason_N.tolist() == [KEPT, OUTLIER, KEPT, RANK]


def test_lists_come_before_outliers_and_rank():
    scores = [9, 8, 7, 6, 5, 4]
    selection = select(*pool(scores), budget=3, outliers=1, never_N=mask(6, 0), always_N=mask(6, 1, 5))
    assert selection.reason_N.tolist() == [NEVER, KEPT, OUTLIER, KEPT, RANK, KEPT]


def test_a_listed_sample_needs_no_score():
    selection = select(*pool([np.nan, 1, 2, np.nan]), budget=2, never_N=mask(4, 0), always_N=mask(4, 3))
    assert kept(selection) == [2, 3]


def test_a_sample_on_both_lists_is_refused():
    with pytest.raises(UsageError, match=r"1 samples are listed both .* sample 2"):
        select(*pool([1, 2, 3]), budget=2, always_N=mask(3, 1, 2), never_N=mask(3, 2))


def test_more_listed_samples_than_the_budget_are_refused():
    with pytest.raises(UsageError, match=r"2 samples are kept in any case, .* budget is 1"):
        select(*pool([1, 2, 3]), budget=1, always_N=mask(3, 1, 2))


def test_too_few_samples_for_the_budget_are_refused_with_the_arithmetic():
    with pytest.raises(UsageError, match=r"budget is 3, but 1 listed \+ 2 others - 1 outliers = 2"):
        select(*pool([1, 2, 3, 4]), budget=3, outliers=1, always_N=mask(4, 0), never_N=mask(4, 1))
    with pytest.raises(UsageError, match=r"1 outliers = 0"):
        select(*pool([1]), budget=1, outliers=1)
    with pytest.raises(UsageError, match=r"0 others - 1 outliers"):
        select(*pool([1]), budget=0, outliers=1, always_N=mask(1), never_N=mask(1, 0))


def test_equal_classes_keep_each_its_best():
    labels = [0, 0, 0, 0, 7, 7, 7, 7]
    selection = select(*pool([8, 7, 6, 5, 4, 3, 2, 1], labels), budget=4, per_class="equal")
    assert kept(selection) == [0, 1, 4, 5]


def test_a_minimum_takes_the_best_of_each_class_and_the_rest_by_rank():
    labels = [0, 0, 0, 0, 1, 1, 1, 2]
    selection = select(*pool([8, 7, 6, 5, 4, 3, 2, 1], labels), budget=6, min_per_class=2)
    assert kept(selection) == [0, 1, 2, 4, 5, 7]


def test_a_listed_sample_counts_towards_its_class():
    labels = [0, 0, 0, 1, 1, 1]
    selection = select(*pool([6, 5, 4, 3, 2, 1], labels), budget=2, per_class="equal", always_N=mask(6, 2))
    assert kept(selection) == [2, 3]


def test_listed_samples_above_their_classs_share_are_all_kept():
    labels = [0, 0, 0, 1, 1, 1]
    always = mask(6, 0, 1, 2)
    selection = select(*pool([6, 5, 4, 3, 2, 1], labels), budget=4, per_class="equal", always_N=always)
    assert kept(selection) == [0, 1, 2, 3]


def test_class_rules_refuse_samples_without_a_label():
    with pytest.raises(UsageError, match="2 of 3 samples have none"):
        select(*pool([1, 2, 3], [0, -1, -1]), budget=1, per_class="equal")
    with pytest.raises(UsageError, match="2 of 3 samples have none"):
        select(*pool([1, 2, 3], [0, -1, -1]), budget=1, min_per_class=1)
    with pytest.raises(UsageError, match="this pool has none"):
        select(*pool([1, 2, 3]), budget=1, min_per_class=1)
    dropped = select(*pool([1, 2, 3], [0, -1, -1]), budget=1, min_per_class=1, never_N=mask(3, 1, 2))
    assert kept(dropped) == [0]


def test_unlabelled_samples_do_not_matter_without_class_rules():
    assert kept(select(*pool([1, 2, 3], [0, -1, -1]), budget=1)) == [2]


def test_a_minimum_above_the_budget_is_refused():
    with pytest.raises(UsageError, match="need at least 3 samples, but the budget is 2"):
        select(*pool([1, 2, 3, 4], [0, 0, 1, 2]), budget=2, min_per_class=1)


def test_class_ids_may_be_far_apart():
    labels = [0, 2**40, 2**40, 5]
    assert kept(select(*pool([1, 2, 3, 4], labels), budget=3, per_class="equal")) == [0, 2, 3]


def test_arrays_and_masks_must_fit():
    with pytest.raises(ScoreError, match="label has shape"):
        select(*pool([1, 2, 3], [0, 1]), budget=1, per_class="equal")
    with pytest.raises(ScoreError, match="a list has shape"):
        select(*pool([1, 2, 3]), budget=1, never_N=mask(2))


@st.composite
def cases(draw):
    size = draw(st.integers(1, 30))
    score = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=size, max_size=size))
    tie = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=size, max_size=size))
    identity_N = np.array(
        draw(st.lists(st.integers(0, 2**64 - 1), min_size=size, max_size=size, unique=True)), dtype=np.uint64
    )
    label = draw(st.lists(st.sampled_from([0, 1, 2, 9]), min_size=size, max_size=size))
    listed = np.array(draw(st.lists(st.sampled_from([0, 0, 0, 0, 1, 2]), min_size=size, max_size=size)))
    free = int((listed == 0).sum())
    outliers = draw(st.integers(0, min(free, 4)))
    always = int((listed == 1).sum())
    budget = draw(st.integers(always, always + free - outliers))
    arrays = np.array(score), np.array(tie), identity_N, np.array(label)
    return arrays, {
        "budget": budget,
        "outliers": outliers,
        "order": draw(st.sampled_from(["hardest", "easiest"])),
        "always_N": listed == 1,
        "never_N": listed == 2,
    }


def ordered(arrays, rows, order):
    score, tie, identity_N, _ = arrays
    sign = -1 if order == "hardest" else 1
    return sorted(rows, key=lambda i: (sign * score[i], sign * tie[i], int(identity_N[i])))


def oracle(arrays, options, wanted):
    """Walks down the order in Python; `wanted` says how many each class keeps at least."""
    label, size = arrays[3], len(arrays[0])
    listed = options["always_N"] | options["never_N"]
    free = [i for i in range(size) if not listed[i]]
    outliers = ordered(arrays, free, "hardest")[: options["outliers"]]
    walk = ordered(arrays, [i for i in free if i not in outliers], options["order"])
    chosen = [i for i in range(size) if options["always_N"][i]]
    for row in walk:
        if sum(label[i] == label[row] for i in chosen) < wanted.get(int(label[row]), 0):
            chosen.append(row)
    chosen += [row for row in walk if row not in chosen][: options["budget"] - len(chosen)]
    reasons = {**dict.fromkeys(outliers, OUTLIER), **dict.fromkeys(chosen, KEPT)}
    return [NEVER if options["never_N"][i] else reasons.get(i, RANK) for i in range(size)]


def supply(arrays, options):
    """Returns how many samples of each class may be kept, and how many must be."""
    plain = select(*arrays, **options)
    may = (plain.reason_N == KEPT) | (plain.reason_N == RANK)
    classes = sorted({int(c) for c in arrays[3][may]})
    counts = np.array([(arrays[3][may] == c).sum() for c in classes], dtype=np.int64)
    placed = np.array([(arrays[3][options["always_N"]] == c).sum() for c in classes], dtype=np.int64)
    return classes, counts, placed


@given(cases())
@settings(max_examples=150, deadline=None)
def test_without_class_rules_every_reason_is_as_defined(case):
    arrays, options = case
    selection = select(*arrays, **options)
    assert oracle(arrays, options, {}) == selection.reason_N.tolist()
    assert selection.counts["kept"] == options["budget"]
    assert sum(selection.counts.values()) == len(arrays[0])
    assert tuple(selection.counts) == REASONS


@given(cases(), st.sampled_from(["equal", "proportional", None]), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_with_class_rules_every_reason_is_as_defined(case, rule, minimum):
    arrays, options = case
    classes, counts, placed = supply(arrays, options)
    assume(np.maximum(np.minimum(counts, minimum), placed).sum() <= options["budget"])
    quota = quotas(counts, options["budget"], rule, minimum, placed_C=placed)
    selection = select(*arrays, **options, per_class=rule, min_per_class=minimum)
    wanted = dict(zip(classes, quota.tolist(), strict=True))
    assert oracle(arrays, options, wanted) == selection.reason_N.tolist()


@given(cases(), st.sampled_from(["equal", "proportional"]), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_reasons_do_not_depend_on_position(case, rule, random):
    arrays, options = case
    place = np.array(random.sample(range(len(arrays[0])), len(arrays[0])))
    moved = {key: value[place] if isinstance(value, np.ndarray) else value for key, value in options.items()}
    reason_N = select(*arrays, **options, per_class=rule).reason_N
    assert reason_N[place].tolist() == select(*(a[place] for a in arrays), **moved, per_class=rule).reason_N.tolist()
