"""read_dali.py MMAP SHARDS FOLDER EXTENSION...: every part of the dataset in turn, as so many ranks would."""

import sys
from pathlib import Path

from found import show
from nvidia.dali import fn, pipeline_def

mmap, ranks, folder, extensions = sys.argv[1] == "mmap", int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
paths = sorted(str(path) for path in folder.rglob("*.tar"))


@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def read(rank):
    return tuple(
        fn.readers.webdataset(
            paths=paths,
            index_paths=[path.removesuffix(".tar") + ".idx" for path in paths],
            ext=extensions,
            dont_use_mmap=not mmap,
            num_shards=ranks,
            shard_id=rank,
            stick_to_shard=True,
            random_shuffle=True,
            name="reader",
        )
    )


for rank in range(ranks):
    pipeline = read(rank)
    pipeline.build()
    size = pipeline.reader_meta("reader")["epoch_size"]
    first, end = size * rank // ranks, size * (rank + 1) // ranks
    for _ in range(end - first):
        batch = pipeline.run()
        show(None, {name: part.at(0).tobytes() for name, part in zip(extensions, batch, strict=True)})
