"""read_webdataset.py WORKERS URL..."""

import sys

import webdataset
from found import show_sample

workers, urls = int(sys.argv[1]), sys.argv[2:]
dataset = webdataset.WebDataset(urls, shardshuffle=False)
for sample in webdataset.WebLoader(dataset, batch_size=None, num_workers=workers) if workers else dataset:
    show_sample(sample)
