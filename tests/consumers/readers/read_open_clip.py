"""read_open_clip.py NUM_SAMPLES WORKERS TRAIN_DATA: its own loader of training data; NUM_SAMPLES 0 reads sizes.json."""

import sys
from types import SimpleNamespace

import torch
from found import show
from open_clip_train.data import get_wds_dataset


def pixels(image):
    return torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)


def main():
    count, workers, urls = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    arguments = SimpleNamespace(
        train_data=urls,
        train_num_samples=count or None,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=1,
        workers=workers,
        world_size=1,
    )
    for images, texts in get_wds_dataset(arguments, pixels, is_train=True, tokenizer=lambda text: [text]).dataloader:
        show(texts[0], {"pixels": images[0].numpy().tobytes()})


if __name__ == "__main__":
    main()
