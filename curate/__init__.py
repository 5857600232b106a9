"""Data pruning for deep learning: score a sharded dataset with a small proxy, keep what matters.

This file imports nothing until a name is asked for, so that `curate cat` starts in milliseconds.
"""

TYPE_CHECKING = False  # what typing calls it: checkers take it for true
if TYPE_CHECKING:
    from curate.trainer import KeptSamples, KeptStream

__version__ = "0.1.0"
__all__ = ["KeptSamples", "KeptStream", "__version__"]


def __getattr__(name: str) -> object:
    if name in ("KeptSamples", "KeptStream"):
        from curate import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module 'curate' has no attribute '{name}'")
