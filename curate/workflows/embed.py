"""The embeddings of a scored pool: one forward pass of one member, shard by shard."""

from __future__ import annotations

import numpy as np
from torch import nn

from curate.embeddings import FOLDER, embeddings_path, write_embeddings, write_embeddings_record
from curate.errors import RunError
from curate.proxy.pixels import Pixels
from curate.proxy.predict import embed_shard
from curate.scores import table_path
from curate.tables import read_table
from curate.workflows.run import Run


def embed(run: Run, pixels: Pixels, member: nn.Module, *, seed: int, epoch: int) -> None:
    """Writes the embeddings of every scored sample; shards that have theirs are passed over.

    Args:
        run, pixels: a run whose score tables are all there.
        member: the network, in evaluation mode.
        seed, epoch: of the member.

    Raises:
        RunError: a sample that has scores can no longer be read.
        ScoreError: an embedding is not finite.
    """
    out = run.request.out
    (out / FOLDER).mkdir(exist_ok=True)
    run.progress.stage("embed", run.pool.total, run.setting.unit)
    for index, scan in enumerate(run.pool.scans):
        if not embeddings_path(out, scan.name).exists():
            _embed_shard(run, pixels, member, index)
            run.log(event="embeddings", shard=scan.name)
        run.progress.at(int(pixels.rows.offset_S[index + 1]), scan.name)
    write_embeddings_record(out, seed=seed, epoch=epoch)


def _embed_shard(run: Run, pixels: Pixels, member: nn.Module, index: int) -> None:
    name, batch_size = run.pool.scans[index].name, run.request.recipe.score.batch_size
    parts = list(embed_shard(run.plan, member, pixels, index, batch_size=batch_size))
    rows = [row_B for row_B, _ in parts]
    ordinal_N = np.concatenate([np.zeros(0, np.int64), *rows]) - pixels.rows.offset_S[index]
    scored_N = read_table(table_path(run.request.out, name), ["ordinal"])["ordinal"].to_numpy()
    if not np.array_equal(ordinal_N, scored_N):
        raise RunError(
            f"{name}: {len(ordinal_N):,} samples can be read, but {len(scored_N):,} have scores.",
            hint="The shard changed after it was scored. Score it into another --out.",
        )
    embeddings = [embedding_BD for _, embedding_BD in parts] or [np.zeros((0, 1), np.float32)]
    write_embeddings(run.request.out, name, np.concatenate(embeddings))
