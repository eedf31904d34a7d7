"""Archives: what tar and zip programs write comes out as it went in, what is hostile not at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.artifacts import archives
from rayserve_app.artifacts.archives import extract, is_archive
from rayserve_app.errors import LoadError

FILES = {
    "model.onnx": random.Random(0).randbytes(100_000),
    "code/inference.py": b"def model_fn(): ...",
    "empty": b"",
}


def write_files(root: Path) -> Path:
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def read_files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def extracted(archive: Path) -> Path:
    directory = archive.parent / "extracted"
    extract(archive, directory, name="a.tar")
    return directory


def refusal(archive: Path) -> str:
    with pytest.raises(LoadError) as info:
        extract(archive, archive.parent / "extracted", name="a.tar")
    return str(info.value)


def member(name: str, content: bytes = b"x", **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tar_of(path: Path, *members: tarfile.TarInfo, mode: str = "w") -> Path:
    """Write members as they are, each file full of zeros."""
    file = path / "a.tar"
    with tarfile.open(file, mode) as tar:  # type: ignore[call-overload]
        for info in members:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return file


def zip_of(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    file = path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file


def link_of(name: str, target: str) -> tarfile.TarInfo:
    return member(name, b"", type=tarfile.SYMTYPE, linkname=target)


def zip_link_of(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.tar.gz", True),
        ("MODEL.TGZ", True),
        ("model.tar", True),
        ("model.zip", True),
        ("weights.npz", False),
        ("model.pt", False),
        ("model.keras", False),
        ("notes.gz", False),
        ("tar", False),
    ],
)
def test_an_archive_is_told_by_its_name(name: str, expected: bool) -> None:
    assert is_archive(name) is expected


@pytest.mark.parametrize("flags", ["-cf", "-czf"])
@pytest.mark.parametrize("layout", ["gnu", "posix", "ustar", "v7", "oldgnu"])
def test_what_the_tar_program_writes_comes_out(tmp_path: Path, flags: str, layout: str) -> None:
    source = write_files(tmp_path / "in")
    file = tmp_path / "a.tar"
    subprocess.run(
        ["tar", f"--format={layout}", flags, str(file), "-C", str(source), "."], check=True
    )
    if layout == "v7" and flags == "-cf":
        assert "expected a tar, with or without gzip, or a zip" in refusal(file)
    else:
        assert read_files(extracted(file)) == FILES


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_zipfile_writes_comes_out(tmp_path: Path, compression: int) -> None:
    source = write_files(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        for path in source.rglob("*"):
            archive.write(path, path.relative_to(source))
    assert read_files(extracted(tmp_path / "a.zip")) == FILES


def test_long_names_and_names_of_other_alphabets_come_out(tmp_path: Path) -> None:
    name = f"{'d' * 200}/{'f' * 200}/größe-模型.bin"
    assert list(read_files(extracted(tar_of(tmp_path, member(name))))) == [name]


@pytest.mark.parametrize("size", [511, 512, 1 << 16, (1 << 16) + 512, 1 << 20])
def test_members_of_any_size_follow_each_other(tmp_path: Path, size: int) -> None:
    contents = {name: random.Random(size).randbytes(size) for name in "abc"}
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        for name, content in contents.items():
            tar.addfile(member(name, content), io.BytesIO(content))
    assert read_files(extracted(tmp_path / "a.tar")) == contents


def test_a_sparse_file_comes_out_whole(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    expected = (tmp_path / "holes").read_bytes()
    subprocess.run(["tar", "-cSf", "a.tar", "holes"], cwd=tmp_path, check=True)
    assert (tmp_path / "a.tar").stat().st_size < 1 << 18
    assert read_files(extracted(tmp_path / "a.tar")) == {"holes": expected}


def test_links_within_the_archive_stay_links(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in")
    (source / "code" / "weights").symlink_to("../model.onnx")
    (source / "also").symlink_to("code")
    (source / "twin.onnx").hardlink_to(source / "model.onnx")
    subprocess.run(["tar", "-cf", str(tmp_path / "a.tar"), "-C", str(source), "."], check=True)
    root = extracted(tmp_path / "a.tar")
    assert (root / "code" / "weights").read_bytes() == FILES["model.onnx"]
    assert (root / "also" / "inference.py").read_bytes() == FILES["code/inference.py"]
    assert (root / "twin.onnx").read_bytes() == FILES["model.onnx"]
    assert os.readlink(root / "code" / "weights") == "../model.onnx"


def test_a_link_of_a_zip_stays_a_link(tmp_path: Path) -> None:
    root = extracted(zip_of(tmp_path, ("b", b"bytes"), (zip_link_of("a"), b"b")))
    assert (root / "a").is_symlink()
    assert (root / "a").read_bytes() == b"bytes"


def test_files_are_for_reading_only_whatever_mode_they_had(tmp_path: Path) -> None:
    root = extracted(tar_of(tmp_path, member("a", mode=0o7777), member("b", mode=0)))
    umask = os.umask(0)
    os.umask(umask)
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in "ab"] == [0o444 & ~umask] * 2


NAMES_THAT_LEAVE = ["/etc/passwd", "../a", "a/../../b", "a/..", "..", "//a", "a/../b"]


@pytest.mark.parametrize("name", NAMES_THAT_LEAVE)
@pytest.mark.parametrize(
    "write",
    [
        lambda path, name: tar_of(path, member(name)),
        lambda path, name: zip_of(path, (name, b"x")),
    ],
    ids=["tar", "zip"],
)
def test_a_name_that_leaves_is_refused(
    tmp_path: Path, write: Callable[[Path, str], Path], name: str
) -> None:
    file = write(tmp_path, name)
    assert "The archive `a.tar` is refused: got The name" in refusal(file)
    assert sorted(os.listdir(tmp_path)) == [file.name, "extracted"]


@pytest.mark.parametrize("name", ["/d", "../d"])
def test_a_folder_that_leaves_is_refused(tmp_path: Path, name: str) -> None:
    assert "leads out" in refusal(tar_of(tmp_path, member(name, b"", type=tarfile.DIRTYPE)))


@pytest.mark.parametrize(
    ("links", "sentence"),
    [
        ([("a", "/etc/passwd")], "leads out of the archive"),
        ([("a", "..")], "leads out of the archive"),
        ([("a/b", "../../x")], "leads out of the archive"),
        ([("a", "b/../.."), ("b", "c")], "leads out of the archive"),
        # By its text within, but not by way of `b`.
        ([("a", "b/.."), ("b", ".")], "to another link or to nothing"),
        ([("a", "b"), ("b", "file")], "to another link or to nothing"),
        ([("a", "nothing")], "to another link or to nothing"),
        ([("a", "a")], "to another link or to nothing"),
    ],
)
def test_a_link_that_leaves_is_refused(
    tmp_path: Path, links: list[tuple[str, str]], sentence: str
) -> None:
    members = [member("file"), *(link_of(name, target) for name, target in links)]
    assert sentence in refusal(tar_of(tmp_path, *members))


def test_a_link_of_a_zip_that_leaves_is_refused(tmp_path: Path) -> None:
    file = zip_of(tmp_path, ("b", b"x"), (zip_link_of("a"), b"../b"))
    assert "The link 'a' to '../b' leads out of the archive" in refusal(file)


@pytest.mark.parametrize("target", ["/etc/passwd", "../a.tar", "nothing"])
def test_a_hard_link_to_what_is_not_in_the_archive_is_refused(tmp_path: Path, target: str) -> None:
    link = member("a", b"", type=tarfile.LNKTYPE, linkname=target)
    refusal(tar_of(tmp_path, member("file"), link))
    assert not (tmp_path / "extracted" / "a").exists()


@pytest.mark.parametrize("order", [1, -1])
def test_nothing_is_written_through_a_link(tmp_path: Path, order: int) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    members = [link_of("a", str(outside)), member("a/b")][::order]
    refusal(tar_of(tmp_path, *members))
    refused = [link_of("a", str(outside)), member("a")][::order]
    shutil.rmtree(tmp_path / "extracted")
    refusal(tar_of(tmp_path, *refused))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, b"Z"])
def test_devices_and_the_like_are_refused(tmp_path: Path, kind: bytes) -> None:
    sentence = refusal(tar_of(tmp_path, member("a", b"", type=kind)))
    # An unknown kind is a file to POSIX readers.
    assert "neither file, folder nor link" in sentence or kind == b"Z"


def test_a_device_of_a_zip_is_refused(tmp_path: Path) -> None:
    info = zip_link_of("a")
    info.external_attr = (stat.S_IFCHR | 0o666) << 16
    assert "'a' is neither file, folder nor link" in refusal(zip_of(tmp_path, (info, b"")))


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    assert "'./a' is in it twice" in refusal(tar_of(tmp_path, member("a"), member("./a")))


def test_an_archive_without_files_is_refused(tmp_path: Path) -> None:
    assert "No file is in it" in refusal(tar_of(tmp_path, member("a", b"", type=tarfile.DIRTYPE)))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    file = zip_of(tmp_path, ("a", b"x"))
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    file.write_bytes(content)
    assert "'a' is encrypted" in refusal(file)


@pytest.mark.parametrize("content", [b"", b"junk" * 999, b"<html>Not Found</html>"])
def test_what_is_no_archive_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    assert "Not an archive: expected a tar, with or without gzip" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize("mode", ["w", "w:gz", "zip"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_what_is_cut_short_is_told(tmp_path: Path, mode: str, share: float) -> None:
    noise = random.Random(0).randbytes(30_000)
    if mode == "zip":
        file = zip_of(tmp_path, ("a", noise), ("b", noise))
    else:
        file = tmp_path / "a.tar"
        with tarfile.open(file, mode) as tar:  # type: ignore[call-overload]
            for name in "ab":
                tar.addfile(member(name, noise), io.BytesIO(noise))
    size = file.stat().st_size
    if mode == "w":
        size = 2 * (512 + 30_208)  # without the end marker
    os.truncate(file, int(size * share))
    assert "`a.tar` is cut short or corrupt: got " in refusal(file)


def test_a_tar_that_ends_between_two_members_is_cut_short(tmp_path: Path) -> None:
    file = tar_of(tmp_path, member("a"), member("b"))
    os.truncate(file, 1024)
    assert "no end marker" in refusal(file)


def test_a_wrong_checksum_of_gzip_or_zip_is_told(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(tar_of(tmp_path, member("a")).read_bytes()))
    packed[-8] ^= 1
    (tmp_path / "a.tar").write_bytes(packed)
    assert "cut short or corrupt: got BadGzipFile: CRC check failed" in refusal(tmp_path / "a.tar")
    shutil.rmtree(tmp_path / "extracted")
    file = zip_of(tmp_path, ("a", b"some content"))
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\1\2") + 16] ^= 1
    content[14] ^= 1
    file.write_bytes(content)
    assert "BadZipFile: Bad CRC-32" in refusal(file)


def test_a_bomb_stops_early(tmp_path: Path) -> None:
    for file in (
        tar_of(tmp_path, member("a", bytes(200 << 20)), mode="w:gz"),
        zip_of(tmp_path, ("a", bytes(200 << 20))),
    ):
        assert "More comes out of the archive than is allowed" in refusal(file)
        written = sum(map(len, read_files(tmp_path / "extracted").values()))
        assert written <= archives.FREE_BYTES
        shutil.rmtree(tmp_path / "extracted")


def test_a_bomb_of_holes_stops_early(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(200 << 20)
    subprocess.run(["tar", "-cSf", "a.tar", "holes"], cwd=tmp_path, check=True)
    assert "More comes out of the archive than is allowed" in refusal(tmp_path / "a.tar")


def test_many_zeros_of_a_small_model_are_no_bomb(tmp_path: Path) -> None:
    assert read_files(extracted(tar_of(tmp_path, member("a", bytes(32 << 20)), mode="w:gz")))


def test_a_bomb_in_a_header_stops_before_it_is_in_memory(tmp_path: Path) -> None:
    info = member("a")
    info.pax_headers = {"comment": "x" * (1 << 20)}
    assert "A header is too long" in refusal(tar_of(tmp_path, info, mode="w:gz"))


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILES", 5)
    names = [f"{number}/" for number in range(6)]
    assert "Too many entries: expected at most 5" in refusal(
        zip_of(tmp_path, *((name, b"") for name in names))
    )


parts = st.sampled_from(["a", "b", "..", ".", "", "a\\b", "C:", "é", "\udc80", "x" * 300])
names = st.lists(parts).map("/".join) | st.text(max_size=20)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])


@settings(deadline=None)
@given(st.lists(st.tuples(names, kinds, names), max_size=5))
def test_whatever_the_names_all_stays_in_the_folder(
    entries: list[tuple[str, bytes, str]],
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary, "outside", "root")
        root.mkdir(parents=True)
        file = tar_of(
            root, *(member(name, b"", type=kind, linkname=to) for name, kind, to in entries)
        )
        try:
            directory = extracted(file)
        except LoadError:
            pass
        else:
            for path in directory.rglob("*"):
                assert path.resolve(strict=True).is_relative_to(directory)
                assert not stat.S_IMODE(path.lstat().st_mode) & 0o7000
        assert os.listdir(Path(temporary)) == ["outside"]
        assert set(os.listdir(root)) <= {"a.tar", "extracted"}
        assert os.listdir(root.parent) == ["root"]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damage_is_a_load_error_or_no_harm(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        kind = data.draw(st.sampled_from(["tar", "gz", "zip"]))
        if kind == "zip":
            file = zip_of(Path(temporary), ("a", b"abc"), ("d/b", b"x" * 99))
        else:
            info = member("b" * 200, b"x" * 999)
            info.pax_headers = {"comment": "größe"}
            mode = "w:gz" if kind == "gz" else "w"
            file = tar_of(Path(temporary), member("a"), info, mode=mode)
        content = bytearray(file.read_bytes()[:10_240])
        for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
            content[position] = data.draw(st.integers(0, 255))
        file.write_bytes(content)
        with contextlib.suppress(LoadError):
            extracted(file)
