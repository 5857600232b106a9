"""read_energon.py DATASET WORKERS"""

import sys

from found import show_sample
from megatron.energon import WorkerConfig, get_loader, get_val_dataset

path, workers = sys.argv[1], int(sys.argv[2])
config = WorkerConfig(rank=0, world_size=1, num_workers=workers)
dataset = get_val_dataset(path, split_part="train", worker_config=config, batch_size=None)
for sample in get_loader(dataset):
    show_sample(sample)
