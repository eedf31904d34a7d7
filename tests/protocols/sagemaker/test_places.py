"""Where files that clients name may lie: what is there, and what is not."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayserve_app.artifacts.remote import open_filesystem
from rayserve_app.errors import ConfigurationError, InvalidRequest, RequestTooLarge
from rayserve_app.protocols.sagemaker.places import Bucket, Directory, open_place
from rayserve_app.settings.locations import check_place
from tests.artifacts.test_sources import serve_gs


@pytest.mark.parametrize(
    "declared", ["s3://bucket", "s3://bucket/in/", "gs://b/a/b", "/data/in", "/data/in//"]
)
def test_a_bucket_or_a_directory_is_a_place(declared: str) -> None:
    assert check_place(declared) == declared


@pytest.mark.parametrize(
    "declared",
    [
        *("", "/", "//data", "data", "./data", "/data/../etc", "/data/./x", "/a b", "/gr\u00fcn"),
        *("s3://", "s3:///key", "S3://bucket", "s3://bucket/../x", "s3://b/a?x", "s3://b/*"),
        *("file:///data", "https://host/x", "http://host/x", "zip://a::s3://b"),
    ],
)
def test_anything_else_is_no_place(declared: str) -> None:
    with pytest.raises(ValueError, match="nor a directory's absolute path"):
        check_place(declared)


@pytest.mark.parametrize(
    ("location", "names"),
    [
        ("s3://bucket/in/a.jpg", ("a.jpg",)),
        ("s3://bucket/in/a/b c.jpg", ("a", "b c.jpg")),
        # Nothing is decoded: these are names as they stand.
        ("s3://bucket/in/%2e%2e/a", ("%2e%2e", "a")),
        ("s3://bucket/in/a::b", ("a::b",)),
    ],
)
def test_what_follows_the_prefix_are_names(location: str, names: tuple[str, ...]) -> None:
    assert open_place("s3://bucket/in/").find(location) == names


@pytest.mark.parametrize(
    "location",
    [
        *("s3://bucket/input/a", "s3://bucket/in", "s3://bucket/other/in/a", "s3://bucket2/in/a"),
        *("s3://x@bucket/in/a", "s3://bucket:80/in/a", "s3://bucket.evil.com/in/a"),
        *(
            "S3://bucket/in/a",
            "s3:/bucket/in/a",
            "s3a://bucket/in/a",
            "bucket/in/a",
            "/bucket/in/a",
        ),
        *("https://bucket.s3.amazonaws.com/in/a", "https://s3.amazonaws.com/bucket/in/a"),
        *("file://bucket/in/a", " s3://bucket/in/a", "zip://a::s3://bucket/in/a", ""),
        "simplecache::s3://bucket/in/a",
    ],
)
def test_another_place_is_not_this_one(location: str) -> None:
    assert open_place("s3://bucket/in").find(location) is None


@pytest.mark.parametrize(
    "rest",
    [
        *("", ".", "..", "../a", "a/..", "a/../../b", "a//b", "/a", "a/", "./a", "a/./b"),
        *("a\\..\\b", "a?versionId=1", "a#b", "*.jpg", "[a]", "a\0b", "a\nb", "\x7f", "a" * 1025),
    ],
)
def test_what_is_no_plain_name_is_refused(rest: str) -> None:
    for place in ("s3://bucket/in", "/data/in"):
        prefix = place if place.startswith("s3") else f"file://{place}"
        with pytest.raises(InvalidRequest):
            open_place(place).find(f"{prefix}/{rest}")


@pytest.mark.parametrize(
    ("location", "names"),
    [
        ("/data/in/a.jpg", ("a.jpg",)),
        ("file:///data/in/a/b.jpg", ("a", "b.jpg")),
        ("file://localhost/data/in/a.jpg", None),
        ("file:/data/in/a.jpg", None),
        ("//data/in/a.jpg", None),
        ("/data/../data/in/a.jpg", None),
        ("/etc/passwd", None),
        ("data/in/a.jpg", None),
    ],
)
def test_a_directorys_files_have_paths_and_urls(
    location: str, names: tuple[str, ...] | None
) -> None:
    assert open_place("/data/in/").find(location) == names


@given(st.text(max_size=60))
def test_whatever_is_found_begins_with_the_place(location: str) -> None:
    place = open_place("/data/in")
    for text in (location, f"/data/in/{location}", f"file:///data/in{location}"):
        try:
            names = place.find(text)
        except InvalidRequest:
            continue
        if names is not None:
            path = os.path.normpath("/".join(("/data/in", *names)))
            assert path.startswith("/data/in/")
            assert path in (text, text.removeprefix("file://"))


def test_a_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    place = Directory(str(tmp_path))
    assert place.read(("a", "b"), 5) == b"12345"
    with pytest.raises(RequestTooLarge, match=r"`file:///.*/a/b` is too large: .* at most 4 bytes"):
        place.read(("a", "b"), 4)


def test_what_is_missing_or_no_file_is_told(tmp_path: Path) -> None:
    place = Directory(str(tmp_path))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    with server:
        for name in ("absent", "folder", "pipe", "socket"):
            with pytest.raises(InvalidRequest, match=rf"`file://{tmp_path}/{name}` "):
                place.read((name,), 100)
    with pytest.raises(InvalidRequest, match="No such file or directory"):
        place.read(("absent", "a"), 100)


def test_no_link_is_followed(tmp_path: Path) -> None:
    """Whether it leads out of the place or not: by the time it is opened, it may lead elsewhere."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"secret")
    root = tmp_path / "in"
    root.mkdir()
    (root / "file").symlink_to(tmp_path / "secret" / "key")
    (root / "folder").symlink_to(tmp_path / "secret")
    place = Directory(str(root))
    for names in (("file",), ("folder", "key")):
        with pytest.raises(InvalidRequest):
            place.read(names, 100)
    for names in (("folder", "new"), ("folder", "below", "new")):
        with pytest.raises(ConfigurationError):
            place.write(names, [b"x"])
    # A link of that name is itself replaced; what it leads to is not touched.
    place.write(("file",), [b"result"])
    assert (tmp_path / "secret" / "key").read_bytes() == b"secret"
    assert sorted(each.name for each in (tmp_path / "secret").iterdir()) == ["key"]
    assert not (root / "file").is_symlink()


def test_the_place_itself_may_be_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    place = Directory(str(tmp_path / "data"))
    place.write(("a",), [b"x"])
    assert (tmp_path / "disk" / "a").read_bytes() == b"x"


def test_a_result_is_written_whole_and_replaces_another(tmp_path: Path) -> None:
    place = Directory(str(tmp_path))
    place.write(("new", "folder", "a.out"), [b"12", memoryview(b"34"), b""])
    assert (tmp_path / "new/folder/a.out").read_bytes() == b"1234"
    place.write(("new", "folder", "a.out"), [])
    assert (tmp_path / "new/folder/a.out").read_bytes() == b""
    assert place.location(("new", "a.out")) == f"file://{tmp_path}/new/a.out"


def test_a_result_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    place = Directory(str(tmp_path))

    def buffers() -> list[bytes]:
        return [b"half", None]  # type: ignore[list-item]

    with pytest.raises(ConfigurationError, match="cannot be written: got Is a directory"):
        place.write(("a",), [b"x"])
    with pytest.raises(TypeError):
        place.write(("b",), buffers())
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        Directory(str(tmp_path / "absent")).write(("b",), [b"x"])


def test_googles_storage_keeps_the_content_type(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    # As open_filesystem has it imported.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    with serve_gs(monkeypatch) as options:
        monkeypatch.setitem(fsspec.config.conf, "gs", options)
        files = open_filesystem("gs", "gs://bucket")
        files.mkdir("bucket")
        for name, kind in (("a", "application/json"), ("b", "größe/x"), ("c", None)):
            open_place("gs://bucket/out").write((name,), [b"[1", b"]"], kind)
            assert files.cat_file(f"bucket/out/{name}") == b"[1]"
        kinds = [files.info(f"bucket/out/{name}")["contentType"] for name in "abc"]
    assert kinds == ["application/json", *["application/octet-stream"] * 2]


def test_a_bucket_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "http://127.0.0.1:9"})
    place = Bucket("s3://bucket/in")
    with pytest.raises(InvalidRequest, match="`s3://bucket/in/a` cannot be read: got"):
        place.read(("a",), 10)
    with pytest.raises(ConfigurationError, match="`s3://bucket/in/a` cannot be written: got"):
        place.write(("a",), [b"x"])
