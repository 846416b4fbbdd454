"""Order of an epoch for storage that is slow for single records: blocks of consecutive records.

The blocks are shuffled. A window of blocks is open at a time, and consecutive images come from different blocks of the
window in turn. A rank takes every n-th image, n being the number of ranks, so it reads only its own blocks of a window
if n divides the number of blocks in it. Nevertheless the order does not depend on the number of ranks.
"""

from collections.abc import Sequence

import numpy as np

BLOCK = 32
"""Records per block. A block of ImageNet has 3.5 MB, whose transfer takes longer than the latency of a request."""

WINDOW = 128
"""Blocks per window, and the largest number of ranks that can each read their own blocks. A window of ImageNet has
450 MB over all ranks."""


def blocks(groups: Sequence[np.ndarray]) -> np.ndarray:
    """First record of each block, and the end of the last: each shard is divided into blocks of about the same size."""
    starts = [np.zeros(0, np.int64)]
    for group in groups:
        if len(group):
            parts = max(1, round(len(group) / BLOCK))
            starts.append(group[0] + np.arange(parts) * len(group) // parts)
    end = sum(map(len, groups))
    return np.append(np.concatenate(starts), end)


def block_order(key: Sequence[int], starts: np.ndarray) -> np.ndarray:
    """A permutation of all records that is a function of `key`. starts: see `blocks`."""
    random = np.random.default_rng(key)
    lengths = np.diff(starts)
    shuffled = random.permutation(len(lengths))
    # The longest blocks of a window come first, so that those that end a round earlier do not shift the others.
    place = np.arange(len(lengths))
    shuffled = shuffled[np.lexsort((-lengths[shuffled], place // WINDOW))]
    window, stream = np.divmod(place, WINDOW)
    lengths = lengths[shuffled]
    block = np.repeat(place, lengths)
    inside = np.arange(len(block)) - np.repeat(lengths.cumsum() - lengths, lengths)
    records = np.repeat(starts[shuffled], lengths) + inside
    # Shuffles the records of each block: sorted by block, and by a random number within it.
    records = records[np.argsort(block + random.random(len(block)))]
    rounds = int(lengths.max(initial=0)) + 1
    order: np.ndarray = records[np.argsort((window[block] * rounds + inside) * WINDOW + stream[block])]
    return order


def reshuffled(order: np.ndarray, seen: int, fresh: np.ndarray) -> np.ndarray:
    """The first `seen` records of `order`, then the others in the order of `fresh`."""
    consumed = np.zeros(len(order), bool)
    consumed[order[:seen]] = True
    return np.concatenate([order[:seen], fresh[~consumed[fresh]]])
