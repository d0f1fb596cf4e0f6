"""Every sample once an epoch, whatever is resumed or sharded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swav_data import epochs
from swav_data.epochs import batch_samples, epoch_order, shard, steps_per_epoch
from swav_spec import multicrop
from swav_spec.errors import InvalidInput

SEEDS = st.integers(0, 2**64 - 1)


def philox_words(counter, key):
    """Philox4x32-10 in whole numbers, after the paper."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@given(samples=st.integers(1, 40), seed=SEEDS, epoch=st.integers(0, 2**32 - 1))
def test_order_is_the_samples_sorted_by_their_own_random_bits(samples, seed, epoch):
    def bits(sample):
        high, low, _, _ = philox_words((0xFFFFFFFF, 0, sample, epoch), divmod(seed, 2**32)[::-1])
        return high, low, sample

    assert epoch_order(samples, seed, epoch).tolist() == sorted(range(samples), key=bits)


@given(samples=st.integers(1, 300), seed=SEEDS, epoch=st.integers(0, 2**32 - 1))
def test_every_sample_once_an_epoch(samples, seed, epoch):
    order = epoch_order(samples, seed, epoch)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(samples))


def test_orders_differ_between_epochs_and_seeds():
    orders = {epoch_order(50, seed, epoch).tobytes() for seed in (0, 1, 2**32, 2**63) for epoch in range(5)}
    assert len(orders) == 20


def test_every_place_is_equally_likely():
    runs = 2400
    counts = np.zeros((6, 6))
    for seed in range(runs):
        counts[np.arange(6), epoch_order(6, seed, 3)] += 1
    expected = runs / 6
    # 25 degrees of freedom: above 60 once in 10,000 sets of seeds; these seeds are always the same.
    assert ((counts - expected) ** 2 / expected).sum() < 60


def test_cached_orders_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        batch_samples(10, 4, 0, 0)[1][0] = 7


def test_crop_plans_use_other_random_numbers():
    assert max(multicrop.ATTEMPTS, multicrop._CHANCES, multicrop._FACTORS, multicrop._ORDER) < epochs._BLOCK


@st.composite
def runs(draw):
    samples = draw(st.integers(1, 60))
    return samples, draw(st.integers(1, samples)), draw(SEEDS)


@given(run=runs(), first=st.integers(0, 4))
def test_batches_of_an_epoch_are_its_order_without_the_rest(run, first):
    samples, batch, seed = run
    steps = steps_per_epoch(samples, batch)
    got = [batch_samples(samples, batch, seed, first * steps + step) for step in range(steps)]
    assert {epoch for epoch, _ in got} == {first}
    joined = np.concatenate([rows for _, rows in got])
    assert all(len(rows) == batch for _, rows in got)
    assert np.array_equal(joined, epoch_order(samples, seed, first)[: steps * batch])
    assert samples - len(joined) < batch


@given(run=runs(), start=st.integers(0, 100), length=st.integers(0, 30))
def test_resuming_changes_nothing(run, start, length):
    samples, batch, seed = run
    steps = range(start + length)
    whole = [batch_samples(samples, batch, seed, step) for step in steps]
    epoch_order.cache_clear()
    resumed = [batch_samples(samples, batch, seed, step) for step in reversed(range(start, start + length))][::-1]
    for (epoch, rows), (epoch_again, rows_again) in zip(whole[start:], resumed, strict=True):
        assert epoch == epoch_again
        assert np.array_equal(rows, rows_again)


@given(total=st.integers(0, 50), ranks=st.integers(1, 12))
def test_shards_are_disjoint_complete_and_even(total, ranks):
    samples = np.random.default_rng(total).permutation(total)
    parts = [shard(samples, rank, ranks) for rank in range(ranks)]
    assert np.array_equal(np.concatenate(parts), samples)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: epoch_order(0, 0, 0), "samples"),
        (lambda: epoch_order(5, -1, 0), "seed"),
        (lambda: epoch_order(5, 2**64, 0), "seed"),
        (lambda: epoch_order(5, 0, 2**32), "epoch"),
        (lambda: batch_samples(5, 6, 0, 0), "batch"),
        (lambda: batch_samples(5, 0, 0, 0), "batch"),
        (lambda: batch_samples(5, 2, 0, -1), "step"),
        (lambda: shard(np.arange(4), 2, 2), "rank"),
        (lambda: shard(np.arange(4), -1, 2), "rank"),
        (lambda: shard(np.arange(4), 0, 0), "ranks"),
    ],
)
def test_numbers_out_of_range_are_named(call, field):
    with pytest.raises(InvalidInput, match=f"^{field} = "):
        call()
