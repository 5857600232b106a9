"""Our tar reader against tarfile, the independent oracle."""

import io
import tarfile
from pathlib import Path

import pytest
import zstandard
from conftest import write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import ShardError
from curate.pool.sources import open_source
from curate.pool.tar import Entry, Tally, entries, split_key

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=60
)


def read(path: Path) -> list[Entry]:
    with open_source(path, path.name) as stream:
        return list(entries(stream, path.name, Tally(), wanted=lambda name, size: True))


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.tuples(NAMES, NAMES, NAMES), min_size=1, max_size=8, unique=True),
    tar_format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    size=st.integers(0, 2000),
)
def test_every_format_is_read_as_tarfile_reads_it(tmp_path_factory, names, tar_format, size) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    write_tar(path, [("/".join(parts), bytes(size)) for parts in names], tar_format=tar_format)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    assert [(e.name.rstrip("/"), e.data, e.size) for e in read(path)] == expected


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.zst"])
def test_codecs_give_the_same_entries(tmp_path: Path, suffix: str) -> None:
    members = [(f"dir/{i:03d}.jpg", bytes([i]) * 700) for i in range(20)]
    write_tar(tmp_path / "plain.tar", members)
    data = (tmp_path / "plain.tar").read_bytes()
    if suffix == ".tar.gz":
        write_tar(tmp_path / "x.tar.gz", members, mode="w:gz")
    else:
        half = zstandard.compress(data[:5000]) + zstandard.compress(data[5000:])
        (tmp_path / f"x{suffix}").write_bytes(half if suffix == ".tar.zst" else data)
    found = read(tmp_path / f"x{suffix}")
    assert [(e.name, e.content) for e in found] == members


def test_links_folders_and_devices_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for kind, name in (
            (tarfile.DIRTYPE, "d"),
            (tarfile.SYMTYPE, "l"),
            (tarfile.LNKTYPE, "h"),
            (tarfile.CHRTYPE, "c"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert [e.name for e in read(path)] == ["a.jpg"]


def test_a_pax_global_header_is_no_part_of_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "made here"}) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    tally = Tally()
    with open_source(path, "x.tar") as stream:
        found = list(entries(stream, "x.tar", tally))
    assert (found[0].start, tally.preamble) == (1024, 1024)


def test_every_cut_is_an_error_or_loses_nothing_but_zeros(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", [(f"{i}.jpg", b"x" * 600) for i in range(3)])
    data = (tmp_path / "x.tar").read_bytes()
    whole = [(e.name, e.content) for e in read(tmp_path / "x.tar")]
    path = tmp_path / "cut.tar"
    for size in range(0, len(data), 256):
        path.write_bytes(data[:size])
        try:
            found = [(e.name, e.content) for e in read(path)]
        except ShardError:
            continue
        assert found == whole


@pytest.mark.parametrize("codec", ["gz", "zst"])
def test_a_cut_compressed_shard_is_an_error(tmp_path: Path, codec: str) -> None:
    import gzip
    import random

    noise = random.Random(0).randbytes(40_000)
    write_tar(tmp_path / "x.tar", [("a.jpg", noise), ("b.jpg", noise)])
    data = (tmp_path / "x.tar").read_bytes()
    packed = gzip.compress(data) if codec == "gz" else zstandard.compress(data)
    path = tmp_path / f"y.tar.{codec}"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ShardError):
        read(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG" * 400])
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with pytest.raises(ShardError):
        read(path)


def test_a_header_that_claims_more_than_there_is_is_refused_without_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 50
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"abc")
    with pytest.raises(ShardError, match="cut short"):
        read(path)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a", "jpg")), ("x/0001.seg.PNG", ("x/0001", "seg.png")), ("x.y/1.jpg", ("x.y/1", "jpg")),
        ("noext", None), (".hidden", None), ("x/__meta__/a.jpg", None), ("__info__", None),
    ],
)  # fmt: skip
def test_keys_follow_webdatasets_rule(name: str, parts: tuple[str, str] | None) -> None:
    assert split_key(name) == parts


def with_field(block: bytes, first: int, end: int, value: bytes) -> bytes:
    """Returns a header with another field, its sum right."""
    changed = bytearray(block)
    changed[first:end] = value.ljust(end - first, b"\0")
    changed[148:156] = b" " * 8
    changed[148:156] = f"{sum(changed):06o}\0 ".encode()
    return bytes(changed)


@pytest.mark.parametrize(("first", "end"), [(100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345)])
def test_a_header_that_tarfile_takes_for_the_end_is_refused(tmp_path: Path, first: int, end: int) -> None:
    """Its readers would silently see the samples before it alone."""
    path = tmp_path / "x.tar"
    write_tar(path, [("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")])
    data = path.read_bytes()
    path.write_bytes(data[:1024] + with_field(data[1024:1536], first, end, b"9x") + data[1536:])
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["a.jpg"]
    with pytest.raises(ShardError, match="a header at byte 1024 with a number that is none"):
        read(path)


@pytest.mark.parametrize("size", [b"-1", b"+3", b"0o3", b"1_0"])
def test_a_size_that_is_no_octal_number_is_refused(tmp_path: Path, size: bytes) -> None:
    path = tmp_path / "x.tar"
    write_tar(path, [("a.jpg", b"123")])
    data = path.read_bytes()
    path.write_bytes(with_field(data[:512], 124, 136, size) + data[512:])
    with pytest.raises(ShardError, match="a size that is no number"):
        read(path)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_two_names_for_one_entry_are_refused(tmp_path: Path, tar_format: int) -> None:
    """The first to some readers, the last to others: a sample would be another one."""
    names = ["a" * 120 + ".jpg", "b" * 120 + ".jpg"]
    for place, name in enumerate(names):
        write_tar(tmp_path / f"{place}.tar", [(name, b"1")], tar_format=tar_format)
    first, second = ((tmp_path / f"{place}.tar").read_bytes() for place in (0, 1))
    path = tmp_path / "x.tar"
    path.write_bytes(first[:1024] + second)
    with pytest.raises(ShardError, match="two names for the entry at byte 0"):
        read(path)


def test_a_sum_that_begins_with_nothing_is_none(tmp_path: Path) -> None:
    """tarfile reads it up to its first NUL: readers built on it would find no tar here."""
    write_tar(tmp_path / "x.tar", [("a.png", b"1"), ("a.cls", b"0")])
    whole = bytearray((tmp_path / "x.tar").read_bytes())
    assert whole[148:149] == b"0"
    whole[148] = 0
    (tmp_path / "x.tar").write_bytes(whole)
    with pytest.raises(tarfile.ReadError), tarfile.open(tmp_path / "x.tar"):
        pass
    with pytest.raises(ShardError, match="is not a tar archive"):
        read(tmp_path / "x.tar")


def test_a_global_header_that_nothing_follows_is_refused(tmp_path: Path) -> None:
    """tarfile raises there, behind the last sample."""
    path = tmp_path / "x.tar"
    write_tar(path, [("a.jpg", b"1")])
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w", pax_headers={"comment": "x"}):
        pass
    path.write_bytes(path.read_bytes()[:1024] + out.getvalue())
    with pytest.raises(tarfile.ReadError), tarfile.open(path) as tar:
        tar.getnames()
    with pytest.raises(ShardError, match="cut short inside a header"):
        read(path)


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    """tarfile reads it whole, others to the NUL."""
    path, name = tmp_path / "x.tar", "n" * 60 + "~" + "n" * 60 + ".jpg"
    write_tar(path, [(name, b"1")], tar_format=tarfile.PAX_FORMAT)
    path.write_bytes(path.read_bytes().replace(b"~", b"\0", 1))
    with pytest.raises(ShardError, match="a damaged PAX header"):
        read(path)


def test_a_long_name_that_does_not_end_is_refused(tmp_path: Path) -> None:
    """tarfile reads on to the next NUL, others to the size that the header says."""
    path = tmp_path / "x.tar"
    write_tar(path, [("n" * 200 + ".jpg", b"1")], tar_format=tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes())
    data[512 + 204 : 512 + 300] = b"m" * 96
    path.write_bytes(data)
    with pytest.raises(ShardError, match="a long name without an end at byte 0"):
        read(path)


def test_a_sum_of_signed_characters_is_not_the_one_that_is_missing(tmp_path: Path) -> None:
    """Of these bytes it is -1."""
    block = bytearray(b"a.png".ljust(512, b"\0"))
    sum_B = sum(block) + 8 * 32
    block[60:68] = bytes(256 - (sum_B + 1) // 8 for _ in range(8))
    block[68] = 256 - (sum_B + 1) % 8
    assert sum(block) + 8 * 32 - 256 * 9 == -1
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(1024))
    with pytest.raises(tarfile.ReadError), tarfile.open(tmp_path / "x.tar"):
        pass
    with pytest.raises(ShardError, match="is not a tar archive"):
        read(tmp_path / "x.tar")


@pytest.mark.parametrize("magic", [b"\0" * 8, b"ustar  \0"])
def test_a_folder_where_the_format_has_none_is_refused(tmp_path: Path, magic: bytes) -> None:
    """As in incremental archives of GNU tar: a time stands there, which tarfile takes for a folder."""
    info = tarfile.TarInfo("a.png")
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[257:265], block[345:357], block[148:156] = magic, b"14712345670\0", b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(1024))
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == ["14712345670/a.png"]
    with pytest.raises(ShardError, match="a name at byte 0 that readers take differently"):
        read(tmp_path / "x.tar")
