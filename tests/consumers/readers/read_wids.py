"""read_wids.py INDEX CACHE [INDICES]"""

import sys

import numpy
import wids
from found import show
from torch.utils.data import Subset

index, cache, *indices = sys.argv[1:]
dataset = wids.ShardListDataset(index, cache_dir=cache, transformations=[])
chosen = Subset(dataset, numpy.load(indices[0])) if indices else dataset
for number in range(len(chosen)):
    sample = chosen[number]
    show(sample["__key__"], {name[1:]: data.read() for name, data in sample.items() if name.startswith(".")})
