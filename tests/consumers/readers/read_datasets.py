"""read_datasets.py list|glob|folder|streamed folder|stream FOLDER or, for stream, URL..."""

import sys
from pathlib import Path

from datasets import Image, load_dataset
from found import show

way, places = sys.argv[1], sys.argv[2:]
shards = sorted(map(str, Path(places[0]).glob("*.tar")))
dataset = {
    "list": lambda: load_dataset("webdataset", data_files={"train": shards}, split="train"),
    "glob": lambda: load_dataset("webdataset", data_files=f"{places[0]}/*.tar", split="train"),
    "folder": lambda: load_dataset(places[0], split="train"),
    "streamed folder": lambda: load_dataset(places[0], split="train", streaming=True),
    "stream": lambda: load_dataset("webdataset", data_files={"train": places}, split="train", streaming=True),
}[way]()
for sample in dataset.cast_column("png", Image(decode=False)):
    parts = {"png": sample["png"]["bytes"], "cls": str(sample["cls"]).encode(), "txt": sample["txt"].encode()}
    show(sample["__key__"], parts)
