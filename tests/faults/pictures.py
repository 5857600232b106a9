"""Mutated images: what is decoded are PIL's pixels, or the sample is bad."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from mutating import Check, Target
from PIL import Image

from curate.errors import SampleError
from curate.pool.images import decode_square

SIDE = 40
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "quality": 90},
    "progressive JPEG": {"format": "JPEG", "progressive": True, "subsampling": 0},
    "grey JPEG": {"format": "JPEG"},
    "PNG": {"format": "PNG"},
}


def oracle(data: bytes) -> tuple[bool, np.ndarray | None]:  # type: ignore[type-arg]
    """Returns whether PIL alone decodes it, and its middle square where that is plain: no palette, no turning."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if image.format == "JPEG":
                scale = SIDE / min(image.size)
                image.draft(None, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
            image.load()
            if image.mode not in ("RGB", "L") or image.getexif() or image.info.get("transparency"):
                return True, None
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            return True, np.asarray(image.convert("RGB").crop((left, top, left + side, top + side)))
    except Exception:
        return False, None


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:  # type: ignore[type-arg]
    return one is other if one is None or other is None else np.array_equal(one, other)


def check(before: bytes, after: bytes) -> tuple[str, bool]:
    (_, was), (is_whole, now) = oracle(before), oracle(after)
    is_changed = not is_whole or not same(was, now)
    try:
        found = decode_square(after, size_px=SIDE, channels=3)
    except SampleError:
        assert not is_whole, "a whole image is refused"
        return "counted as a bad sample", is_changed
    assert is_whole, "accepted what the oracle cannot read"
    assert found.shape == (*found.shape[:1] * 2, 3)
    assert now is None or not SIDE <= len(now) < 2 * SIDE or np.array_equal(found, now), "other pixels"
    return "accepted, changed and right" if is_changed else "accepted as it was", is_changed


def pictures(_folder: Path, _scores: Path, _manifest: Path) -> list[Target]:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE + 3, SIDE, 3), dtype=np.uint8)
    targets = []
    for name, options in FORMATS.items():
        out = io.BytesIO()
        image = Image.fromarray(pixels).resize((48, 40), Image.Resampling.BILINEAR)
        (image.convert("L") if "grey" in name else image).save(out, **options)
        judge: Check = check
        targets.append(Target(f"image {name}", [out.getvalue()], judge))
    return targets
