"""Places in object storage, on real servers on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rayserve_app.artifacts.remote import open_filesystem
from rayserve_app.errors import ConfigurationError, InvalidRequest, RequestTooLarge
from rayserve_app.protocols.sagemaker.places import Place, open_place
from tests.artifacts.test_sources import serve_gs, serve_s3


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    scheme = request.param
    serve = {"s3": serve_s3, "gs": serve_gs}[scheme]
    with serve(monkeypatch) as options:
        fsspec = pytest.importorskip("fsspec")
        monkeypatch.setitem(fsspec.config.conf, scheme, options)
        files = open_filesystem(scheme, f"{scheme}://bucket")
        files.mkdir("bucket")
        yield scheme, files


def open_in(store: Any) -> Place:
    return open_place(f"{store[0]}://bucket/in/")


def test_an_object_is_read_up_to_a_size(store: Any) -> None:
    scheme, files = store
    files.pipe("bucket/in/a b/c::d", b"12345")
    files.pipe("bucket/in/empty", b"")
    place = open_in(store)
    names = place.find(f"{scheme}://bucket/in/a b/c::d")
    assert names == ("a b", "c::d")
    assert place.read(names, 5) == b"12345"
    assert place.read(("empty",), 5) == b""
    with pytest.raises(RequestTooLarge, match="is too large: expected at most 4 bytes"):
        place.read(names, 4)


def test_what_is_no_object_is_told(store: Any) -> None:
    scheme, files = store
    files.pipe("bucket/in/folder/a", b"1")
    for name, reason in (("absent", "cannot be read: got no such file"), ("folder", "is no file")):
        with pytest.raises(InvalidRequest, match=f"`{scheme}://bucket/in/{name}` {reason}"):
            open_in(store).read((name,), 10)


def test_an_escape_is_part_of_a_name(store: Any) -> None:
    """Neither fsspec nor the server makes `..` of `%2e%2e`."""
    _, files = store
    files.pipe("bucket/secret", b"secret")
    files.pipe("bucket/in/%2e%2e/secret", b"plain")
    place = open_in(store)
    assert place.read(("%2e%2e", "secret"), 10) == b"plain"
    for names in (("%2e%2e%2fsecret",), ("..%2fsecret",), ("%2e%2e", "%2e%2e", "secret")):
        with pytest.raises(InvalidRequest, match="no such file"):
            place.read(names, 10)


def test_a_result_replaces_another(store: Any) -> None:
    place = open_in(store)
    for content in (b"12345", b""):
        place.write(("new", "a.out"), [content[:2], memoryview(content)[2:]])
        assert store[1].cat_file("bucket/in/new/a.out") == content
    assert place.location(("new", "a.out")) == f"{store[0]}://bucket/in/new/a.out"


def test_a_bucket_that_is_not_there_takes_nothing(store: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written: got"):
        open_place(f"{store[0]}://no-bucket/out").write(("a",), [b"x"])
