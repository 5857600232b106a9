"""What a trainer's own code imports: the kept samples as torch datasets, over the unchanged shards."""

from curate.trainer.datasets import KeptSamples, KeptStream

__all__ = ["KeptSamples", "KeptStream"]
