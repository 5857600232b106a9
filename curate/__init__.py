"""Data pruning for deep learning: score a sharded dataset with a small proxy, keep what matters.

This file imports nothing, so that `curate cat` starts in milliseconds.
"""

__version__ = "0.1.0"
