"""What clients can name of asynchronous invocations never leads out of the places in the YAML."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayserve_app.app import App, create_app
from rayserve_app.types import Reply
from tests.protocols import call, create_model

SECRET = b"secret"
ALLOWED = b"allowed"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a directory of two places, a secret beside them, and links and a pipe that lead on."""
    for name in ("in", "in/folder", "in-other", "out", "elsewhere"):
        (tmp_path / name).mkdir()
    for name in ("secret", "in-other/file", "elsewhere/file"):
        (tmp_path / name).write_bytes(SECRET)
    for name in ("in/file", "in/folder/file", "in/%2e%2e", "in/..."):
        (tmp_path / name).write_bytes(ALLOWED)
    os.mkfifo(tmp_path / "in" / "pipe")
    for place in ("in", "out"):
        (tmp_path / place / "link").symlink_to(tmp_path / "secret")
        (tmp_path / place / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / place / "up").symlink_to("..")
    return tmp_path


@pytest.fixture
def app(root: Path) -> Iterator[App]:
    def echo(items: Sequence[Any]) -> list[Reply]:
        return [Reply(bytes(item.body)) for item in items]

    places = {"async_input": [f"{root}/in"], "async_output": f"{root}/out"}
    model = create_model(
        echo,
        input={"type": "request"},
        warm_up=False,
        protocols=["sagemaker_runtime"],
        protocol_settings={"sagemaker": places},
        limits={"max_body_mb": 0.001},
    )
    yield create_app(model)
    model.close()


async def outcome(app: App, root: Path, body: bytes, fields: dict[str, str]) -> bytes | None:
    """Return what was written for an invocation; None if it was refused."""
    names = {f"X-Amzn-SageMaker-{name}": text.encode("latin-1") for name, text in fields.items()}
    path = "/endpoints/m/async-invocations"
    response = await call(app, "POST", path, content=body, headers=names)
    if response.status_code != 202:
        assert (response.status_code, response.headers["x-amzn-errortype"]) == (
            400,
            "ValidationError",
        )
        return None
    places = [
        response.headers[f"x-amzn-sagemaker-{kind}location"] for kind in ("output", "failure")
    ]
    for place in places:
        assert place.startswith(f"file://{root}/out/")
        assert ".." not in place.split("/")
    # Where neither can be written, as behind a link, the log alone has it.
    for _ in range(100):
        for place in places:
            file = place.removeprefix("file://")
            if os.path.isfile(file) and os.path.realpath(file) == file:
                content = Path(file).read_bytes()
                os.unlink(file)
                return content
        await asyncio.sleep(0.002)
    return b""


def outside(root: Path) -> dict[str, bytes]:
    """Return all that lies outside the place of results."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_relative_to(root / "out")
    }


PARTS = st.sampled_from(
    [
        *("in", "in-other", "out", "secret", "elsewhere", "file", "folder", "link", "linked", "up"),
        *(
            "..",
            ".",
            "",
            "...",
            "%2e%2e",
            "%2E%2E%2F",
            "..%00",
            "..;",
            "~",
            "pipe",
            "\xa0..",
            ".. ",
        ),
        *("..\\..", "\x00", "*", "?", "a" * 300, "etc", "passwd", "proc", "self", "fd", "0"),
    ]
)
TAILS = st.lists(PARTS, max_size=5).map("/".join) | st.sampled_from(
    ["file", "folder/file", "%2e%2e", "...", "link", "linked/file", "folder/../file", "../secret"]
)
STARTS = st.sampled_from(
    [
        *("{root}/in/", "{root}/in", "{root}/", "file://{root}/in/", "file://{root}/", "/", ""),
        *("file:{root}/in/", "file://localhost{root}/in/", "FILE://{root}/in/", "//{root}/in/"),
        *("local://{root}/in/", "simplecache::{root}/in/", "zip://a::file://{root}/in/"),
        *("s3://{root}/in/", "https://h{root}/in/", "http://127.0.0.1:9/", " {root}/in/", "~/"),
    ]
)


def test_no_location_leads_out_of_the_place_of_inputs(app: App, root: Path) -> None:
    before, found = outside(root), set()
    with asyncio.Runner() as runner:

        @settings(
            derandomize=True,
            deadline=None,
            max_examples=400,
            database=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(STARTS, TAILS)
        def check(start: str, tail: str) -> None:
            location = start.replace("{root}", str(root)) + tail
            try:
                content = runner.run(outcome(app, root, b"", {"InputLocation": location}))
            except ValueError:
                return  # the client itself sends no such header
            assert SECRET not in (content or b"") or b"cannot be read" in (content or b"")
            found.add(content)

        check()
    assert {None, ALLOWED} <= found
    assert outside(root) == before


def test_no_name_leads_out_of_the_place_of_results(app: App, root: Path) -> None:
    before = outside(root)
    linked = (root / "out" / "link", root / "out" / "linked", root / "out" / "up")
    with asyncio.Runner() as runner:

        @settings(
            derandomize=True,
            deadline=None,
            max_examples=300,
            database=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(
            st.none() | TAILS | st.builds(str.__add__, st.sampled_from(["/", "s3:"]), TAILS),
            st.none() | PARTS | TAILS,
        )
        def check(path_extension: str | None, filename: str | None) -> None:
            fields = {"S3OutputPathExtension": path_extension, "Filename": filename}
            given_fields = {name: text for name, text in fields.items() if text is not None}
            runner.run(outcome(app, root, b"[1]", given_fields))

        check()
    assert outside(root) == before
    # A link may be replaced by a result of its name; what it led to is as it was.
    assert all(not each.is_symlink() or each.exists() for each in linked)


@pytest.mark.parametrize("name", ["pipe", "link", "linked/file", "up/secret", "folder"])
async def test_what_is_no_file_of_the_place_is_a_failure_at_once(
    app: App, root: Path, name: str
) -> None:
    content = await outcome(app, root, b"", {"InputLocation": f"{root}/in/{name}"})
    assert content is not None
    assert b"cannot be read" in content or b"is no file" in content


async def test_a_file_larger_than_a_body_may_be_is_not_read(app: App, root: Path) -> None:
    with open(root / "in" / "large", "wb") as file:
        file.truncate(1 << 40)
    content = await outcome(app, root, b"", {"InputLocation": f"{root}/in/large"})
    assert content is not None
    assert b"is too large: expected at most 1000 bytes" in content
