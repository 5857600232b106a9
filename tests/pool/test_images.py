"""Every kind of image that PIL reads becomes the pixels a person would see."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from curate.cli import run
from curate.errors import SampleError
from curate.pool.images import MAX_PIXELS, decode, native_side
from curate.pool.jpeg import ordinary_square

SIDE = 16
RED, GREEN, BLUE = (200, 30, 20), (10, 180, 40), (30, 60, 210)


def picture() -> NDArray[np.uint8]:
    """Four quarters of different colours: no rotation or flip leaves it as it is."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    half = SIDE // 2
    pixels[:half, :half], pixels[:half, half:], pixels[half:, :half], pixels[half:, half:] = RED, GREEN, BLUE, 255
    return pixels


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rgb(data: bytes, size_px: int = SIDE) -> NDArray[np.uint8]:
    return decode(data, size_px=size_px, channels=3)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_an_image_of_the_right_size_is_not_resampled(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(rgb(encoded(Image.fromarray(picture()), kind, **options)), picture())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(mode: str, kind: str) -> None:
    grey = Image.fromarray(np.where(picture()[..., 0] > 100, 255, 0).astype(np.uint8))
    pixels = rgb(encoded(grey.convert(mode), kind))
    assert np.array_equal(pixels, np.repeat(np.asarray(grey)[..., None], 3, 2))
    luma = decode(encoded(grey.convert(mode), kind), size_px=SIDE, channels=1)
    assert np.array_equal(luma[..., 0], np.asarray(grey))


def test_a_palette_becomes_its_colours() -> None:
    image = Image.fromarray(picture()).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert np.array_equal(rgb(encoded(image, "PNG")), np.asarray(image.convert("RGB")))
    assert np.abs(rgb(encoded(image, "GIF")).astype(int) - picture()).max() < 8


@pytest.mark.parametrize("way", ["RGBA", "LA", "palette", "key"])
def test_transparency_lies_on_black(way: str) -> None:
    pixels = np.dstack([picture(), np.full((SIDE, SIDE), 255, np.uint8)])
    pixels[: SIDE // 2, SIDE // 2 :, 3] = 0
    if way == "palette":
        image = Image.fromarray(picture()).quantize(8)
        data = encoded(image, "PNG", transparency=image.getpixel((SIDE - 1, 0)))
    elif way == "key":
        data = encoded(Image.fromarray(picture()), "PNG", transparency=GREEN)
    else:
        data = encoded(Image.fromarray(pixels).convert(way), "PNG")
    out = rgb(data)
    assert (out[: SIDE // 2, SIDE // 2 :] == 0).all()
    assert (out[SIDE // 2 :, SIDE // 2 :] == 255).all()


def test_half_transparency_is_half_as_bright() -> None:
    pixels = np.full((SIDE, SIDE, 4), (200, 100, 50, 128), np.uint8)
    assert np.abs(rgb(encoded(Image.fromarray(pixels), "PNG"))[0, 0].astype(int) - [100, 50, 25]).max() <= 1


def test_cmyk_becomes_rgb() -> None:
    image = Image.fromarray(picture()).convert("CMYK")
    assert np.abs(rgb(encoded(image, "TIFF")).astype(int) - np.asarray(image.convert("RGB"))).max() == 0
    assert np.abs(rgb(encoded(image, "JPEG", quality=95)).astype(int) - picture()).mean() < 20


def test_lab_is_read_in_colour_and_in_grey() -> None:
    image = Image.fromarray(np.full((SIDE, SIDE, 3), (150, 128, 128), np.uint8), "LAB")
    grey = decode(encoded(image, "TIFF"), size_px=SIDE, channels=1)
    assert (grey[..., 0] == np.asarray(Image.fromarray(rgb(encoded(image, "TIFF"))).convert("L"))).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_full_scale(kind: str) -> None:
    ramp = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
    out = decode(encoded(Image.fromarray(ramp), kind), size_px=SIDE, channels=1)[..., 0]
    assert np.abs(out - ramp / 257).max() <= 0.5
    dark = np.full((SIDE, SIDE), 257 * 3, np.uint16)
    assert (decode(encoded(Image.fromarray(dark), kind), size_px=SIDE, channels=1) == 3).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_deeper_values_use_their_own_range(dtype: type) -> None:
    ramp = np.linspace(-1000, 70000, SIDE * SIDE).reshape(SIDE, SIDE).astype(dtype)
    out = decode(encoded(Image.fromarray(ramp), "TIFF"), size_px=SIDE, channels=1)[..., 0]
    assert (out.min(), out.max()) == (0, 255)
    assert (np.diff(out.ravel().astype(int)) >= 0).all()


def test_values_that_are_not_finite_are_a_bad_sample() -> None:
    with pytest.raises(SampleError, match="not finite"):
        rgb(encoded(Image.fromarray(np.full((SIDE, SIDE), np.nan, np.float32)), "TIFF"))


SEEN = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_orientation_of_a_camera_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encoded(Image.fromarray(picture()), kind, exif=exif, **options)
    assert np.abs(rgb(data).astype(int) - SEEN[orientation](picture())).max() < 12
    wide = encoded(Image.fromarray(picture()[: SIDE // 2]), kind, exif=exif, **options)
    assert native_side(wide) == (SIDE // 2, False)


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(rgb(encoded(Image.fromarray(picture()), "PNG", exif=exif)), picture())


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.fromarray(np.full((SIDE, SIDE, 3), value, np.uint8)) for value in (40, 90, 200)]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
        assert np.abs(rgb(data).astype(int) - 40).max() <= 3


def scene(width: int, height: int) -> Image.Image:
    """Smooth and asymmetrical, so that a decoding at a smaller scale can be compared."""
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    waves = [np.sin(x * 2 + y), np.cos(x - y * 2), np.sin(x * y)]
    return Image.fromarray(np.dstack([(wave + 1) * 127 for wave in waves]).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (333, 777), (97, 4000), (100, 100)])
def test_a_jpeg_at_a_smaller_scale_looks_like_the_whole_one(width: int, height: int) -> None:
    data = encoded(scene(width, height), "JPEG", quality=95)
    side = min(width, height)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    whole = Image.open(io.BytesIO(data)).convert("RGB").resize((48, 48), Image.Resampling.BILINEAR, box=box)
    assert np.abs(rgb(data, 48).astype(int) - np.asarray(whole)).mean() < 2


def by_pil(data: bytes, size_px: int, channels: int) -> NDArray[np.uint8]:
    """The middle square of a JPEG, as PIL alone decodes it at the smallest scale that covers `size_px`."""
    with Image.open(io.BytesIO(data)) as image:
        wanted = size_px / min(image.size)
        image.draft(None, (max(1, int(image.width * wanted)), max(1, int(image.height * wanted))))
        image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side))).reshape(side, side, channels)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (97, 400), (64, 64), (33, 35), (16, 17), (15, 40)])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 30}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_ordinary_jpeg_has_the_bytes_that_pil_gives(
    mode: str, options: dict[str, object], width: int, height: int
) -> None:
    data = encoded(scene(width, height).convert(mode), "JPEG", **options)
    for size_px, channels in [(8, 3), (16, 3), (31, 3), (64, 3), (224, 3), (24, 1)]:
        fast = ordinary_square(data, size_px=size_px, channels=channels, max_pixels=MAX_PIXELS)
        # Whose scale would not be certain, and whose colours would have to be weighed, are left to PIL.
        assert (fast is None) == (min(width, height) < 16 or (mode == "RGB" and channels == 1))
        if fast is not None:
            assert np.array_equal(fast, by_pil(data, size_px, channels))


def test_what_is_not_an_ordinary_jpeg_is_left_to_pil() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(scene(40, 30), "JPEG", exif=exif)
    several = encoded(scene(40, 30), "MPO", save_all=True, append_images=[scene(40, 30)])
    cmyk = encoded(scene(40, 30).convert("CMYK"), "JPEG")
    plain = encoded(scene(40, 30), "JPEG")
    described = encoded(scene(40, 30), "JPEG", xmp=b"<x:xmpmeta/>")  # may say how it is turned
    profiled = encoded(scene(40, 30), "JPEG", icc_profile=bytes(3000))
    assert ordinary_square(profiled, size_px=16, channels=3, max_pixels=MAX_PIXELS) is not None
    for data in (turned, several, described, cmyk, plain[:-40], plain[:30], encoded(scene(40, 30), "PNG"), b""):
        assert ordinary_square(data, size_px=16, channels=3, max_pixels=MAX_PIXELS) is None
    assert ordinary_square(plain, size_px=16, channels=3, max_pixels=1199) is None
    assert ordinary_square(plain, size_px=16, channels=3, max_pixels=1200) is not None


def test_a_damaged_jpeg_is_what_pil_says_of_it() -> None:
    """Bits flipped anywhere, bytes cut out: decoded here means decoded so by PIL, or not by PIL at all."""
    draw, whole = np.random.default_rng(0), encoded(scene(90, 70), "JPEG", quality=80)
    decoded = 0
    for _ in range(400):
        data = bytearray(whole)
        at = int(draw.integers(2, len(data)))
        if draw.integers(2):
            data[at] ^= 1 << int(draw.integers(8))
        else:
            del data[at : at + int(draw.integers(1, 9))]
        fast = ordinary_square(bytes(data), size_px=32, channels=3, max_pixels=MAX_PIXELS)
        decoded += fast is not None
        try:
            expected = by_pil(bytes(data), 32, 3)
        except Exception:  # noqa: S112 - PIL refuses damaged data in many ways
            continue
        assert fast is None or np.array_equal(fast, expected)
    assert decoded > 20


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_the_smallest_and_the_thinnest_images_have_pixels(width: int, height: int) -> None:
    assert rgb(encoded(scene(width, height), "PNG"), 8).shape == (8, 8, 3)


@pytest.mark.parametrize("cut", [10, 200, 600])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_what_is_cut_short_is_a_bad_sample(kind: str, cut: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    with pytest.raises(SampleError):
        rgb(encoded(Image.fromarray(noise), kind)[:cut])


@pytest.mark.parametrize(
    "data", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"GIF89a", bytes(4096), b"\xff\xd8\xff"]
)
def test_what_is_no_image_is_a_bad_sample(data: bytes) -> None:
    with pytest.raises(SampleError):
        rgb(data)
    with pytest.raises(SampleError):
        native_side(data)


def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL hands EPS to Ghostscript, where that is installed."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(SampleError, match="is not an image"):
        rgb(encoded(Image.new("RGB", (8, 8)), "EPS"))
    assert not (tmp_path / "ran").exists()


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    data = encoded(Image.new("1", (side, side)), "PNG")
    assert len(data) < 1 << 20
    with warnings.catch_warnings(), pytest.raises(SampleError, match="more than"):
        warnings.simplefilter("error")
        rgb(data)


def test_threads_decode_what_one_thread_decodes() -> None:
    images = [encoded(scene(100 + n, 90 + n), ("JPEG", "PNG", "WEBP")[n % 3]) for n in range(48)]
    alone = [rgb(data, 32) for data in images]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            assert all(
                np.array_equal(a, b) for a, b in zip(alone, threads.map(lambda d: rgb(d, 32), images), strict=True)
            )


@pytest.mark.data
def test_every_photo_of_a_real_shard_has_pixels(real_data: Path, tmp_path: Path) -> None:
    shard = sorted((real_data / "imagenette").glob("*.tar"))[0]
    assert run(["index", str(shard), "--decode", "--out", str(tmp_path / "index"), "--json"]) == 0
