"""read_energon.py DATASET WORKERS: with the cook that a trainer brings for crude samples."""

import sys
from dataclasses import dataclass

from found import show
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    get_loader,
    get_val_dataset,
    stateless,
)


@dataclass
class Parts(Sample):
    parts: dict


@stateless
def cook(sample):
    parts = {name: data for name, data in sample.items() if isinstance(data, bytes)}
    return Parts(**basic_sample_keys(sample), parts=parts)


class Encoder(DefaultTaskEncoder):
    decoder = None
    cookers = (Cooker(cook),)


def main():
    path, workers = sys.argv[1], int(sys.argv[2])
    config = WorkerConfig(rank=0, world_size=1, num_workers=workers)
    dataset = get_val_dataset(path, split_part="train", worker_config=config, batch_size=None, task_encoder=Encoder())
    for sample in get_loader(dataset):
        show(sample.__key__, sample.parts)


if __name__ == "__main__":
    main()
