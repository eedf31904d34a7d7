"""Where a model's files come from: local paths, a real web server, object storage."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rayserve_app.artifacts import archives, remote
from rayserve_app.artifacts.cache import cache_directory
from rayserve_app.artifacts.sources import fetch
from rayserve_app.errors import ConfigurationError, LoadError, MissingDependency
from rayserve_app.settings.model import FileSettings, parse_settings

WEIGHTS = bytes(range(256)) * 999


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYSERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_archive(file: Path, content: bytes = WEIGHTS) -> Path:
    folder = file.parent / "for-archive"
    (folder / "code").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(content)
    (folder / "code" / "inference.py").write_text("# user code")
    subprocess.run(["tar", "-caf", str(file), "-C", str(folder), "."], check=True)
    return file


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def kept_in(cache: Path) -> set[str]:
    """Return what the cache holds, but for locks."""
    return {name for name in files_of(cache) if not name.endswith(".lock")}


# Local paths


def test_a_local_file_or_directory_is_returned_as_it_is(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model.pt").write_bytes(WEIGHTS)
    assert fetch(str(tmp_path / "model.pt")) == tmp_path / "model.pt"
    assert fetch(str(tmp_path / "model.pt"), sha256=sha256_of(WEIGHTS)) == tmp_path / "model.pt"
    assert fetch(str(tmp_path)) == tmp_path
    assert not cache.exists()


def test_a_relative_path_is_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.pt").write_bytes(WEIGHTS)
    monkeypatch.chdir(tmp_path)
    assert fetch("model.pt").read_bytes() == WEIGHTS
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch("~/model.pt").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["model.tar.gz", "model.tgz", "model.tar"])
def test_a_local_archive_is_extracted_once(tmp_path: Path, cache: Path, name: str) -> None:
    file = write_archive(tmp_path / name)
    root = fetch(str(file))
    assert files_of(root) == {"weights.bin", "code/inference.py"}
    assert (root / "weights.bin").read_bytes() == WEIGHTS
    made_at = root.stat().st_mtime_ns
    copy = tmp_path / "copy.tar"
    copy.write_bytes(file.read_bytes())
    assert fetch(str(copy), sha256=sha256_of(copy.read_bytes())) == root
    assert root.stat().st_mtime_ns == made_at
    assert root.is_relative_to(cache)


def test_an_archive_that_changed_is_extracted_anew(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "model.tar")
    old = fetch(str(file))
    with tarfile.open(file, "a") as tar:
        tar.add(__file__, "new.py")
    assert "new.py" in files_of(fetch(str(file)))
    assert "new.py" not in files_of(old)


def test_a_refused_archive_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "model.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(__file__, "fine.py")
        tar.addfile(tarfile.TarInfo("../evil"))
    with pytest.raises(LoadError, match=r"The archive `/.*/model.tar` is refused: got The name '"):
        fetch(str(file))
    assert kept_in(cache) == set()
    assert not (cache / "evil").exists()


def test_what_a_killed_maker_left_does_not_matter(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "model.tar")
    digest = sha256_of(file.read_bytes())
    partial_tree = cache_directory() / "trees" / f"{digest}.partial"
    (partial_tree / "half").mkdir(parents=True)
    assert files_of(fetch(str(file))) == {"weights.bin", "code/inference.py"}
    assert not partial_tree.exists()


def test_what_is_missing_or_empty_is_told_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match=f"No such file or directory: {tmp_path}/absent"):
        fetch("absent")
    Path("folder").mkdir()
    with pytest.raises(LoadError, match=f"The directory `{tmp_path}/folder` is empty"):
        fetch("folder")
    Path("file").touch()
    with pytest.raises(LoadError, match=f"The file `{tmp_path}/file` is empty"):
        fetch("file")
    os.mkfifo("pipe")
    with pytest.raises(LoadError, match=f"Neither a file nor a directory: {tmp_path}/pipe"):
        fetch("pipe")


@pytest.mark.parametrize("name", ["model.pt", "model.tar"])
def test_another_checksum_is_told(tmp_path: Path, cache: Path, name: str) -> None:
    file = write_archive(tmp_path / "model.tar").rename(tmp_path / name)
    expected, got = sha256_of(b"another"), sha256_of(file.read_bytes())
    with pytest.raises(LoadError, match=f"Checksum mismatch .*: expected {expected}, got {got}"):
        fetch(str(file), sha256=expected)
    assert not cache.exists()


def test_a_directory_has_no_checksum(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is a directory: `sha256` is for files and arch"):
        fetch(str(tmp_path), sha256=sha256_of(b""))


@pytest.mark.parametrize("location", ["file:///etc/passwd", "file:/etc/passwd", "ftp://host/m.pt"])
def test_another_scheme_is_refused(location: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a local path, `s3://`, `gs://` or `htt"):
        fetch(location)


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_archive(tmp_path / "model.tar")
    monkeypatch.setenv("RAYSERVE_CACHE", str(file / "cache"))
    with pytest.raises(LoadError, match=r"written: got Not a directory. Set RAYSERVE_CACHE to a f"):
        fetch(str(file))


FETCH = "import sys; from rayserve_app.artifacts.sources import fetch; print(fetch(sys.argv[1]))"


def test_processes_that_fetch_at_one_time_extract_once(tmp_path: Path) -> None:
    file = write_archive(tmp_path / "model.tar.gz", os.urandom(8 << 20))
    command = [sys.executable, "-c", FETCH, str(file)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    roots = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(roots) == 1
    assert files_of(Path(roots.pop())) == {"weights.bin", "code/inference.py"}


@pytest.mark.parametrize("value", ["abc", "x" * 64, "0" * 63, ""])
def test_what_is_no_checksum_is_refused(value: str) -> None:
    model = {"input": {"type": "image"}, "path": "model.pt", "sha256": value}
    with pytest.raises(ConfigurationError, match=r"Not a SHA-256 checksum of 64 hex digits: got "):
        parse_settings(FileSettings, {"model": model})


def test_a_checksum_may_be_written_in_capitals() -> None:
    model = {"input": {"type": "image"}, "path": "model.pt", "sha256": "AB" * 32}
    assert parse_settings(FileSettings, {"model": model}).sha256 == "ab" * 32


# The web: a real server on this machine


@dataclass
class Site:
    """Files by path, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    tells_versions: bool = True
    tells_sizes: bool = True
    claimed_bytes: int | None = None
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def downloads(self) -> int:
        return sum(each.startswith("GET") for each in self.asked)


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, site: Site, *args: Any) -> None:
        self.site = site
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        path = self.path.partition("?")[0]
        self.site.asked.append(f"{self.command} {path}")
        content = self.site.files.get(path)
        status = self.site.statuses.get(path, 404 if content is None else 200)
        self.send_response(status)
        if status != 200 or content is None:
            content = b""
            self.send_header("Location", "http://192.0.2.1/model.pt")
        elif self.site.tells_versions:
            self.send_header("ETag", f'"{sha256_of(content)[:8]}"')
        if self.site.tells_sizes:
            self.send_header("Content-Length", str(self.site.claimed_bytes or len(content)))
        self.end_headers()
        return content

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    pytest.importorskip("fsspec")
    site = Site()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site))
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_of_the_web_is_downloaded_once_for_each_version(site: Site, cache: Path) -> None:
    site.files["/m/model.keras"] = WEIGHTS
    path = fetch(site.url("/m/model.keras"))
    assert (path.name, path.read_bytes()) == ("model.keras", WEIGHTS)
    assert path.is_relative_to(cache)
    assert fetch(site.url("/m/model.keras")) == path
    assert site.downloads == 1
    site.files["/m/model.keras"] = b"newer"
    assert fetch(site.url("/m/model.keras")).read_bytes() == b"newer"
    assert path.read_bytes() == WEIGHTS


def test_a_file_without_a_version_is_downloaded_each_time_and_kept_once(
    site: Site, cache: Path
) -> None:
    site.tells_versions = False
    site.files["/model.pt"] = WEIGHTS
    assert fetch(site.url("/model.pt")) == fetch(site.url("/model.pt"))
    assert site.downloads == 2
    assert len([name for name in kept_in(cache) if name.startswith("files")]) == 1


def test_with_a_checksum_the_server_is_asked_once(site: Site) -> None:
    site.files["/model.pt"] = WEIGHTS
    path = fetch(site.url("/model.pt"), sha256=sha256_of(WEIGHTS))
    site.asked.clear()
    assert fetch(site.url("/model.pt"), sha256=sha256_of(WEIGHTS)) == path
    assert site.asked == []


def test_what_was_pruned_is_downloaded_again(site: Site, cache: Path) -> None:
    site.files["/model.pt"] = WEIGHTS
    path = fetch(site.url("/model.pt"))
    path.unlink()
    assert fetch(site.url("/model.pt")).read_bytes() == WEIGHTS
    path.unlink()
    assert fetch(site.url("/model.pt"), sha256=sha256_of(WEIGHTS)).read_bytes() == WEIGHTS


def test_another_checksum_of_a_download_is_told_and_nothing_kept(site: Site, cache: Path) -> None:
    site.files["/model.pt"] = WEIGHTS
    expected = sha256_of(b"another")
    sentence = f": expected {expected}, got {sha256_of(WEIGHTS)}"
    with pytest.raises(LoadError, match=sentence):
        fetch(site.url("/model.pt"), sha256=expected)
    assert kept_in(cache) == set()
    fetch(site.url("/model.pt"))
    with pytest.raises(LoadError, match=sentence):
        fetch(site.url("/model.pt"), sha256=expected)


def test_an_archive_of_the_web_is_extracted_and_not_kept_itself(
    site: Site, tmp_path: Path, cache: Path
) -> None:
    packed = write_archive(tmp_path / "model.tar.gz").read_bytes()
    site.files["/model.tar.gz"] = packed
    root = fetch(site.url("/model.tar.gz?X-Signature=secret"), sha256=sha256_of(packed))
    assert files_of(root) == {"weights.bin", "code/inference.py"}
    assert {name.partition("/")[0] for name in kept_in(cache)} == {"trees", "remote"}
    assert fetch(str(tmp_path / "model.tar.gz")) == root


def test_a_page_that_is_no_archive_is_told_without_its_query(site: Site, cache: Path) -> None:
    site.files["/model.zip"] = b"<html>Please log in</html>"
    with pytest.raises(LoadError, match=r"`http://127.0.0.1:\d+/model.zip` is refused.*a zip$"):
        fetch(site.url("/model.zip?X-Signature=secret"))
    assert kept_in(cache) == set()


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(404, "no such file or directory there"), (403, "403"), (401, "401"), (500, "500")],
)
def test_what_the_server_refuses_is_told(site: Site, status: int, sentence: str) -> None:
    site.statuses["/model.pt"] = status
    with pytest.raises(LoadError, match=f"/model.pt` cannot be fetched: got .*{sentence}") as info:
        fetch(site.url("/model.pt?X-Signature=secret"))
    assert "secret" not in str(info.value)


def test_a_server_that_cannot_be_reached_is_told() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(LoadError, match=r"cannot be fetched: got ConnectionRefusedError"):
        fetch("http://127.0.0.1:9/model.pt")


def test_a_download_that_breaks_off_is_told(site: Site, cache: Path) -> None:
    site.files["/model.pt"] = WEIGHTS
    site.claimed_bytes = len(WEIGHTS) + 1
    with pytest.raises(
        LoadError, match=r"cannot be fetched: got ContentLengthError: .*Not enough data"
    ):
        fetch(site.url("/model.pt"))
    assert kept_in(cache) == set()


def test_an_empty_file_of_the_web_is_told(site: Site) -> None:
    site.files["/model.pt"] = b""
    with pytest.raises(LoadError, match=r"/model.pt` is empty"):
        fetch(site.url("/model.pt"))


def test_too_large_a_file_is_not_downloaded(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", 1000)
    site.files["/model.pt"] = WEIGHTS
    with pytest.raises(LoadError, match="is too large: expected at most 1,000 bytes"):
        fetch(site.url("/model.pt"))
    assert site.downloads == 0
    assert kept_in(cache) == set()


def test_what_turns_out_too_large_is_not_kept(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", 1000)
    site.tells_sizes = False
    site.files["/model.pt"] = WEIGHTS
    with pytest.raises(LoadError, match="is too large: expected at most 1,000 bytes"):
        fetch(site.url("/model.pt"))
    assert kept_in(cache) == set()


def test_processes_that_fetch_at_one_time_download_once(site: Site) -> None:
    site.files["/model.pt"] = os.urandom(8 << 20)
    command = [sys.executable, "-c", FETCH, site.url("/model.pt")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    paths = {process.communicate()[0].strip() for process in started}
    assert [Path(path).read_bytes() for path in paths] == [site.files["/model.pt"]]
    assert site.downloads == 1


def test_http_leads_to_this_machine_only() -> None:
    with pytest.raises(ConfigurationError, match="expected `https://`, got `http:`"):
        fetch("http://192.0.2.1/model.pt")


def test_nobody_is_led_from_https_to_http() -> None:
    with pytest.raises(ConfigurationError, match="is not protected on its way"):
        remote.Remote("https://host/model.pt")._check_transport("http://host/model.pt")


@pytest.mark.parametrize(
    ("location", "module", "extra"),
    [
        ("https://host/model.pt", "fsspec", "http"),
        ("https://host/model.pt", "aiohttp", "http"),
        ("s3://bucket/model.pt", "s3fs", "s3"),
        ("gs://bucket/model.pt", "gcsfs", "gcs"),
    ],
)
def test_a_missing_package_is_told_with_the_command(
    location: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever used the scheme before in this process has left its class there.
    registry = pytest.importorskip("fsspec.registry")
    monkeypatch.delitem(registry._registry, location.partition(":")[0], raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    with pytest.raises(MissingDependency, match=rf'pip install "rayserve-app\[{extra}\]"'):
        fetch(location)


# Object storage: fsspec's own files in memory, under the name of S3


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):  # type: ignore[misc]
        protocol = "s3"
        store: dict[str, Any] = {}  # noqa: RUF012  # fsspec's own way to keep it
        pseudo_dirs = [""]  # noqa: RUF012

        def __init__(self, config_kwargs: Any = None, **options: Any) -> None:
            super().__init__(**options)

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.removeprefix("s3://"))  # type: ignore[no-any-return]

        def info(self, path: str, **options: Any) -> dict[str, Any]:
            info: dict[str, Any] = super().info(path, **options)
            if info["type"] == "file":
                info["ETag"] = sha256_of(self.store[info["name"]].getvalue())[:32]
            return info

        def find(self, path: str, **options: Any) -> dict[str, Any]:
            found: dict[str, Any] = super().find(path, **options)
            return {name: self.info(name) for name in found}

    # `fsspec.registry` is a read-only view that hides the module.
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "s3", Bucket)
    return Bucket(skip_instance_cache=True)


def test_a_prefix_of_a_bucket_is_downloaded_with_all_below_it(bucket: Any) -> None:
    contents = {"saved_model.pb": b"graph", "variables/variables.index": b"i", "a/b/c": b"c"}
    for name, content in contents.items():
        bucket.pipe(f"/bucket/m/{name}", content)
    bucket.pipe("/bucket/m2/other", b"beside")
    root = fetch("s3://bucket/m")
    assert {name: (root / name).read_bytes() for name in files_of(root)} == contents
    assert fetch("s3://bucket/m/") == root
    bucket.pipe("/bucket/m/a/b/c", b"d")
    assert (fetch("s3://bucket/m") / "a/b/c").read_bytes() == b"d"
    assert (root / "a/b/c").read_bytes() == b"c"


def test_an_object_is_downloaded(bucket: Any) -> None:
    bucket.pipe("/bucket/model.pt", WEIGHTS)
    assert fetch("s3://bucket/model.pt", sha256=sha256_of(WEIGHTS)).read_bytes() == WEIGHTS


def test_a_prefix_has_no_checksum(bucket: Any) -> None:
    bucket.pipe("/bucket/m/a", b"a")
    with pytest.raises(ConfigurationError, match="`s3://bucket/m` is a directory"):
        fetch("s3://bucket/m", sha256=sha256_of(b""))


def test_a_prefix_without_objects_is_missing(bucket: Any) -> None:
    with pytest.raises(LoadError, match="`s3://bucket/none` cannot be fetched: got no such file"):
        fetch("s3://bucket/none")


def test_a_prefix_of_too_many_objects_is_refused(
    bucket: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_FILES", 2)
    for name in "abc":
        bucket.pipe(f"/bucket/m/{name}", b"a")
    with pytest.raises(LoadError, match="holds too many files: expected at most 2, got 3"):
        fetch("s3://bucket/m")
    assert kept_in(cache) == set()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a//evil"])
def test_a_key_that_is_no_path_is_refused(name: str) -> None:
    files = {name: {"size": 1, "ETag": "1"}}
    with pytest.raises(LoadError, match="holds a name that is not a path"):
        remote.Listing(remote.Remote("s3://b/m"), None, "b/m", files, is_directory=True)


def test_the_limits_of_archives_are_those_of_downloads() -> None:
    assert (remote.MAX_BYTES, remote.MAX_FILES) == (archives.MAX_BYTES, archives.MAX_FILES)


# Object storage: real servers on this machine


@contextmanager
def serve_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Serve S3, and give the options of fsspec that lead there."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    # What was stored outlives the server.
    urllib.request.urlopen(f"{endpoint}/moto-api/reset", data=b"").close()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield {"endpoint_url": endpoint}
    server.stop()


@contextmanager
def serve_gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Serve Google's storage, and give the options of fsspec that lead there."""
    pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with emulator.create_server("127.0.0.1", port, in_memory=True):
        yield {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon"}


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    scheme = request.param
    serve = {"s3": serve_s3, "gs": serve_gs}[scheme]
    with serve(monkeypatch) as options:
        fsspec = pytest.importorskip("fsspec")
        monkeypatch.setitem(fsspec.config.conf, scheme, options)
        filesystem = remote.Remote(f"{scheme}://bucket")._filesystem()
        filesystem.mkdir("bucket")
        yield scheme, filesystem


def test_object_storage_answers_files_prefixes_and_archives(store: Any, tmp_path: Path) -> None:
    scheme, files = store
    files.pipe("bucket/m/", b"")  # as the console marks a folder
    files.pipe("bucket/m/weights.bin", WEIGHTS)
    files.pipe("bucket/m/code/inference.py", b"# user code")
    files.put(str(write_archive(tmp_path / "model.tar.gz")), "bucket/model.tar.gz")
    root = fetch(f"{scheme}://bucket/m")
    assert files_of(root) == {"weights.bin", "code/inference.py"}
    assert (root / "weights.bin").read_bytes() == WEIGHTS
    assert fetch(f"{scheme}://bucket/m/weights.bin").read_bytes() == WEIGHTS
    assert files_of(fetch(f"{scheme}://bucket/model.tar.gz")) == {
        "weights.bin",
        "code/inference.py",
    }
    with pytest.raises(LoadError, match=f"`{scheme}://bucket/absent` cannot be .* no such file"):
        fetch(f"{scheme}://bucket/absent")
    with pytest.raises(LoadError, match=f"`{scheme}://no-bucket/m` cannot be fetched: got "):
        fetch(f"{scheme}://no-bucket/m")


def test_what_changed_in_object_storage_is_downloaded_anew(store: Any) -> None:
    scheme, files = store
    files.pipe("bucket/m/weights.bin", WEIGHTS)
    old = fetch(f"{scheme}://bucket/m")
    files.pipe("bucket/m/weights.bin", WEIGHTS[::-1])
    assert (fetch(f"{scheme}://bucket/m") / "weights.bin").read_bytes() == WEIGHTS[::-1]
    assert (old / "weights.bin").read_bytes() == WEIGHTS
