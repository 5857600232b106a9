"""docs/consumers.md: every trainer that was tried, what to type for it, and the table of exports."""

from __future__ import annotations

from typing import NamedTuple

from curate.manifest.exports import EXPORTS

GUIDE = """# How trainers read the kept samples

The tables are generated from the program; do not edit.

Five ways, by what a trainer accepts:

1. A command in place of a file: `pipe:curate cat MANIFEST SHARD`. Nothing is copied, and a source that
   changed ends the reading with an error instead of a short shard.
2. A URL in place of a file: `curate serve MANIFEST` prints one for each shard (loopback, ranges, ETags).
3. A small side file beside the unchanged shards: `curate export MANIFEST --to NAME`, below.
4. New shards: `curate materialize MANIFEST OUT`, one to one or of equal counts (`--shards K`), with
   `_info.json` (timm), `sizes.json` (open_clip), `wids.json`, an `.idx` for DALI beside each shard,
   a README for Hugging Face datasets, `urls.txt` and `class_map.json`.
5. In code: `curate.KeptStream(MANIFEST)`, a torch dataset and a first stage for webdataset's pipelines, dealt by
   sample to ranks and workers, shuffled by seed and epoch, resumable (`state_dict`); and `curate.KeptSamples(MANIFEST)`
   by number, for any sampler, where the shards are plain tars. Neither reads what was dropped from a plain tar.

## Trainers

*Exact* means that a test ran the real package at that version and found the kept samples, each once, every byte
as in the source (of readers that decode, every pixel). The tests are in `tests/consumers` and `tests/manifest`;
`tests/consumers/environment.sh DIR` builds the environments of those that do not come with curate.

| trainer | version | read through | what to type | exact in |
|---|---|---|---|---|
{consumers}

## Exports

| `--to` | for | writes | know before |
|---|---|---|---|
{exports}

## What to know of any of them

- **Epoch length.** A trainer that was told the number of samples needs the new one: `curate verify`
  prints it, and `_info.json` and `sizes.json` hold it.
- **More workers than shards.** webdataset raises; timm's starved workers yield nothing and say nothing;
  open_clip refuses to start.
- **Uneven ranks and workers.** Pruning makes shards uneven. open_clip gives each worker the same number of samples
  an epoch: it repeats some of a short share and leaves out some of a long one; so does timm in training. `curate
  materialize --shards K` makes shards equal again (counts differ by one at most); choose a K that the number of
  ranks times workers divides.
- **Classes.** Ids are never renumbered, also where a class is pruned away; `class_map.json` says so.
- **Caches by file name.** New shards carry a digest of the manifest in their names, so that a cache never
  hands out the source for them.
- `WDS_SECURE=1` forbids `pipe:` in webdataset; then materialize.
- MosaicML's MDS, LitData's and FFCV's formats are written from samples: read them through 1 or 5 into their
  writers. They were not tried.
"""


class Consumer(NamedTuple):
    """One way to read the kept samples that a test has shown exact.

    Attributes:
        trainer: the package.
        version: that the test ran.
        way: through what it reads.
        line: what to type.
        proof: the test that shows it.
    """

    trainer: str
    version: str
    way: str
    line: str
    proof: str


CONSUMERS: tuple[Consumer, ...] = (
    Consumer(
        "webdataset", "1.0.2", "`pipe:` in a list, as one text", "`WebDataset(open(\"urls.txt\").read().splitlines())`",
        "test_urls_lead_webdataset_to_the_kept_samples",
    ),
    Consumer(
        "webdataset", "1.0.2", "`pipe:`, under a torch DataLoader with workers",
        "`torch.utils.data.DataLoader(WebDataset(urls), batch_size=None, num_workers=W)`",
        "test_webdataset_under_torchs_loader_with_workers",
    ),
    Consumer(
        "webdataset", "1.0.2", "new shards", "`WebDataset(glob(\"OUT/*.tar\"))`",
        "test_webdataset_and_the_side_files_agree",
    ),
    Consumer(
        "webdataset", "0.2.86", "`pipe:`, also with loader workers", "as above", "test_webdataset_0_2",
    ),
    Consumer(
        "timm", "1.0.31", "its loader, `--data-dir \"pipe:curate cat …\"`", "the line that `--to timm` prints",
        "test_timms_loader_reads_the_kept_samples",
    ),
    Consumer(
        "timm", "1.0.31", "its loader, new shards", "`--dataset wds/kept --data-dir OUT --train-split train`",
        "test_timms_loader_reads_materialized_shards",
    ),
    Consumer(
        "timm, torchvision", "1.0.31, 0.29.2", "links to the images", "the lines that `--to imagefolder` prints",
        "test_image_folders_hold_the_kept_images",
    ),
    Consumer(
        "open_clip", "3.3.0", "`pipe:` and `GOPEN_REWRITE`",
        "`--train-data \"pipe:curate cat MANIFEST s-{0000..0999}.tar\" --train-num-samples N`",
        "test_open_clip_through_urls",
    ),
    Consumer(
        "open_clip", "3.3.0", "new shards of equal counts, two workers",
        "`--train-data \"OUT/…tar\"`; `sizes.json` tells N",
        "test_open_clip_of_materialized_shards",
    ),
    Consumer(
        "NVIDIA DALI", "2.4.0, 1.25.0", "the unchanged tars through partial indexes, also as three ranks",
        "the lines that `--to dali` prints", "test_dali_over_the_sources",
    ),
    Consumer(
        "NVIDIA DALI", "2.4.0", "new shards", "`fn.readers.webdataset(paths=tars, index_paths=idxs, …)`",
        "test_dali_of_materialized_shards",
    ),
    Consumer(
        "Megatron Energon", "7.4.1", "the unchanged tars through a split that excludes, also with workers",
        "the line that `--to energon` prints", "test_energon_over_the_sources",
    ),
    Consumer(
        "Megatron Energon", "7.4.1", "new shards", "`energon prepare OUT`", "test_energon_of_materialized_shards",
    ),
    Consumer(
        "wids", "0.1.11", "commands that fill its cache", "the line that `--to wids` prints",
        "test_wids_through_commands",
    ),
    Consumer(
        "wids", "0.1.11", "the unchanged tars through indices",
        "`Subset(ShardListDataset(…), numpy.load(\"indices.npy\"))`",
        "test_wids_over_the_sources_through_indices",
    ),
    Consumer(
        "wids", "0.1.11", "new shards", "`ShardListDataset(\"OUT/wids.json\", cache_dir=…)`",
        "test_wids_of_materialized_shards",
    ),
    Consumer(
        "Hugging Face datasets", "5.2.0", "what `curate serve` serves, streamed and downloaded",
        "the lines that `--to hf` prints", "test_datasets_opens_the_exported_folder",
    ),
    Consumer(
        "Hugging Face datasets", "5.2.0", "new shards: a list, a glob, the folder", "`load_dataset(\"OUT\")`",
        "test_datasets_of_materialized_shards",
    ),
    Consumer(
        "Ray Data", "2.60.0", "new shards", "`ray.data.read_webdataset(paths)`", "test_ray_of_materialized_shards",
    ),
    Consumer(
        "PyTorch", "2.15.0", "`KeptSamples` and `KeptStream`", "`DataLoader(curate.KeptStream(MANIFEST), …)`",
        "test_every_sample_comes_once_however_many_workers",
    ),
    Consumer(
        "webdataset", "1.0.2", "what `curate serve` serves", "`WebDataset(urls)`, the URLs it prints",
        "test_webdataset_reads_the_urls_as_they_are",
    ),
    Consumer(
        "timm", "1.0.31", "what `curate serve` serves", "`--data-dir http://127.0.0.1:PORT/DIGEST`",
        "test_timm_reads_the_folders_url_as_its_data_dir",
    ),
)  # fmt: skip


def guide() -> str:
    """Returns docs/consumers.md, made from the tables."""
    consumers = "\n".join(
        f"| {row.trainer} | {row.version} | {row.way} | {row.line} | `{row.proof}` |" for row in CONSUMERS
    )
    exports = "\n".join(f"| `{name}` | {row.reader} | {row.line} | {row.caveats} |" for name, row in EXPORTS.items())
    return GUIDE.format(consumers=consumers, exports=exports)
