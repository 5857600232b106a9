"""The kept samples as torch datasets. They read the unchanged shards; nothing is copied on disk."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from curate.errors import ManifestError, UsageError
from curate.manifest.kept import KeptReader, Sample
from curate.manifest.layout import Piece
from curate.trainer.shares import Remainder, pieces, rank_share, shuffled, worker_share

EXPECTED = 32  # samples that the system is asked for before they are read
Decode = Callable[[Sample], Any]


class KeptSamples(Dataset[Any]):
    """The kept samples by number: the manifest's shards in its order, samples in theirs. For any sampler.

    A sample is a dict as webdataset has it: `__key__`, `__url__` and bytes by extension. It is read from
    a plain tar in one piece. The first time a shard is used its kept headers are read, in each worker
    anew; after `prepare()` they are known to all workers that start later.

    Args:
        manifest: its folder.
        root: where the shards lie, if they moved.
        decode: turns a sample into what the trainer wants. Under `spawn` it must pickle.

    Raises:
        UsageError: a source is compressed: it cannot be read by number.
        ManifestError: the manifest cannot be read, or keeps nothing.
    """

    def __init__(self, manifest: str | Path, *, root: str | Path | None = None, decode: Decode | None = None) -> None:
        self._kept = KeptReader(Path(manifest), Path(root) if root else None)
        self._decode = decode
        for shard, name in enumerate(self._kept.names):
            if not self._kept.is_plain(shard):
                raise UsageError(
                    f"{name} is compressed: its samples cannot be read by number.",
                    hint="Use KeptStream, or write plain shards with `curate materialize`.",
                )

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, number: int) -> Any:
        sample = self._kept.read(range(len(self))[number])
        return self._decode(sample) if self._decode else sample

    def prepare(self) -> None:
        """Reads the kept headers of every shard now. Cost: 16 bytes of memory a sample."""
        for shard in range(len(self._kept.names)):
            self._kept.ranges(shard)


class KeptStream(IterableDataset[Any]):
    """The kept samples one after another, dealt by sample to ranks and workers: none starves, none repeats.

    It is also a first stage of webdataset's pipelines; no stage that splits by node or worker may follow.
    The order depends on seed, epoch, ranks, workers and `batch_size` alone. Between epochs call `set_epoch`; workers
    that live on hear of it. Of plain tars only the kept samples are read; of compressed ones each reader
    decompresses what lies before its part too.

    Args:
        manifest: its folder.
        root: where the shards lie, if they moved.
        decode: turns a sample, as `KeptSamples` has it, into what the trainer wants.
        shuffle: 0 keeps the manifest's order. Otherwise shards are shuffled, and samples through a buffer
            of so many. The buffer holds numbers where shards are plain, else samples.
        seed: of the order.
        rank, world_size: who reads; else what torch.distributed says once it is initialised, else 0 of 1.
        remainder: `keep` deals each sample once, and ranks differ by one at most; `drop` leaves the
            epoch's last samples out so that ranks are equal; `pad` repeats its first ones instead.
        batch_size: of the loader: workers then get whole batches, and an epoch has one short one at most.

    Raises:
        UsageError: arguments that do not fit together.
        ManifestError: the manifest cannot be read, or keeps nothing.
    """

    def __init__(
        self,
        manifest: str | Path,
        *,
        root: str | Path | None = None,
        decode: Decode | None = None,
        shuffle: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        remainder: Remainder = "keep",
        batch_size: int = 1,
    ) -> None:
        if (rank is None) != (world_size is None) or (rank is not None and not 0 <= rank < (world_size or 0)):
            raise UsageError(f"rank {rank} of {world_size}.", hint="Give both, with 0 ≤ rank < world_size, or none.")
        if remainder not in ("keep", "drop", "pad"):
            raise UsageError(f"remainder '{remainder}'.", hint="Expected keep, drop or pad.")
        if isinstance(shuffle, bool):
            raise UsageError(f"shuffle is {shuffle}.", hint="Expected the size of a buffer such as 10_000, 0 for none.")
        if shuffle < 0 or seed < 0 or batch_size < 1:
            raise UsageError("shuffle and seed must be 0 or more, batch_size 1 or more.")
        self._kept = KeptReader(Path(manifest), Path(root) if root else None)
        self._decode, self._shuffle, self._seed = decode, shuffle, seed
        self._rank, self._world_size, self._remainder = rank, world_size, remainder
        self._batch_size = batch_size
        # In shared memory, because a worker that lives on has its own copy of everything else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]  # torch's
        self._taken = self._resume_at = 0

    def __len__(self) -> int:
        """Samples of this rank, in all its workers."""
        first, end = self._share()
        return end - first

    def __iter__(self) -> Iterator[Any]:
        resume_at, self._resume_at = self._resume_at, 0
        self._taken = resume_at
        for item in self._in_order(resume_at):
            self._taken += 1
            sample = self._kept.read(item) if isinstance(item, int) else item
            yield self._decode(sample) if self._decode else sample

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is spawned knows nothing of torch.distributed; a rank that is must ask for itself.
        rank, world_size = self._place() if _is_distributed() else (self._rank, self._world_size)
        return {**vars(self), "_rank": rank, "_world_size": world_size}

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch the next iterator is of: with the seed it decides the order."""
        if epoch != int(self._epoch):  # workers that start anew would go on from there in every epoch
            self._resume_at = 0
        self._epoch.fill_(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Returns the epoch, how many samples this process took of it, and the manifest's digest."""
        return {"epoch": int(self._epoch), "taken": self._taken, "manifest": self._kept.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iterator go on there: the same samples follow as would have followed.

        Raises:
            ManifestError: the state is of a stream of another manifest.

        With a loader's workers say `set_epoch` before the pass after that one: they know no other way that it is over.
        """
        if state.get("manifest", self._kept.digest) != self._kept.digest:
            raise ManifestError(
                "This state is of a stream of another manifest: its samples are others.",
                hint="Begin an epoch anew with set_epoch, or open the manifest that the state is of.",
            )
        self.set_epoch(state["epoch"])
        self._resume_at = state["taken"]

    def _place(self) -> tuple[int, int]:
        if self._rank is not None and self._world_size is not None:
            return self._rank, self._world_size
        if _is_distributed():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _share(self) -> tuple[int, int]:
        return rank_share(len(self._kept), *self._place(), self._remainder)

    def _in_order(self, resume_at: int) -> Iterator[int | Sample]:
        """Yields this process's samples, the first ones left out: by number where they can be read in any order."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first, end = worker_share(*self._share(), number, workers, self._batch_size)
        if not self._shuffle:
            first, resume_at = min(end, first + resume_at), 0
        epoch_seed = [self._seed, int(self._epoch)]
        shards = len(self._kept.names)
        order_S = np.random.default_rng(epoch_seed).permutation(shards) if self._shuffle else np.arange(shards)
        drawn = np.random.default_rng([*epoch_seed, self._place()[0], number]).integers(2**63)
        draw = random.Random(int(drawn))  # noqa: S311  (an order, no secret)
        parts = list(pieces(order_S, self._kept.kept_S, first, end))
        return self._expected(islice(shuffled(self._along(parts), self._shuffle, draw), resume_at, None), parts)

    def _along(self, parts: Iterable[Piece]) -> Iterator[int | Sample]:
        for piece in parts:
            if self._kept.is_plain(piece.line):
                at = self._kept.first(piece.line)
                yield from range(at + piece.first, at + piece.end)
            else:
                yield from self._kept.stream(piece.line, piece.first, piece.end)

    def _expected(self, items: Iterable[int | Sample], parts: Sequence[Piece]) -> Iterator[int | Sample]:
        """Yields the items, each number a while after the system was asked for its sample."""
        part_of = {piece.line: (piece.first, piece.end) for piece in parts}
        waiting, asked = deque[int](), set[int]()
        for item in items:
            if not isinstance(item, int):
                yield from waiting
                waiting.clear()
                yield item
                continue
            shard = self._kept.shard_of(item)
            if not self._kept.is_known(shard):
                self._kept.ranges(shard, ahead=part_of[shard])  # asks for the whole part, for the sake of its headers
                asked.add(shard)
            if shard not in asked:
                self._kept.expect(item)
            waiting.append(item)
            if len(waiting) > EXPECTED:
                yield waiting.popleft()
        yield from waiting


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
