"""Forms, as browsers and `requests` send them."""

from __future__ import annotations

import contextlib
import logging
from email.encoders import encode_noop
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from time import process_time

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.codecs import form
from rayserve_app.codecs.form import Field
from rayserve_app.errors import (
    DecodeError,
    InvalidRequest,
    RequestTooLarge,
    UnsupportedContentType,
)

MULTIPART = "multipart/form-data; boundary=b"
URLENCODED = "application/x-www-form-urlencoded"
fast = settings(derandomize=True, deadline=None, max_examples=200)

# HTML standard, "multipart/form-data", as Chromium sends a form with a text and a file.
BROWSER = (
    b"------WebKitFormBoundaryePkpFF7tjBAqx29L\r\n"
    b'Content-Disposition: form-data; name="model_name"\r\n'
    b"\r\n"
    b"d\xc3\xa9faut\r\n"
    b"------WebKitFormBoundaryePkpFF7tjBAqx29L\r\n"
    b'Content-Disposition: form-data; name="image"; filename="a \xc3\xa9%22.png"\r\n'
    b"Content-Type: image/png\r\n"
    b"\r\n"
    b"\x89PNG\r\n\x1a\n\r\n--\r\n"
    b"------WebKitFormBoundaryePkpFF7tjBAqx29L--\r\n"
)
BROWSER_TYPE = "multipart/form-data; boundary=----WebKitFormBoundaryePkpFF7tjBAqx29L"


def fields_of(body: bytes, content_type: str | None) -> list[tuple[str, str | None, bytes]]:
    return [(f.name, f.filename, bytes(f.data)) for f in form.parse(body, content_type)]


def part(headers: bytes, data: bytes = b"") -> bytes:
    return b"--b\r\n" + headers + b"\r\n\r\n" + data + b"\r\n"


NAMED = b'Content-Disposition: form-data; name="a"'


def test_a_browsers_form_is_read() -> None:
    text, file = form.parse(BROWSER, BROWSER_TYPE)
    assert text == Field("model_name", None, None, "défaut".encode())
    assert text.text == "défaut"
    assert file == Field("image", "a é%22.png", "image/png", b"\x89PNG\r\n\x1a\n\r\n--")


def test_what_requests_sends_is_read() -> None:
    request = requests.Request(
        "POST",
        "http://server/",
        data={"model_version": "1"},
        files=[("images", ("1.jpg", b"\xff\xd8one")), ("images", ("2.jpg", b"\xff\xd8two"))],
    ).prepare()
    assert isinstance(request.body, bytes)
    assert fields_of(request.body, request.headers["Content-Type"]) == [
        ("model_version", None, b"1"),
        ("images", "1.jpg", b"\xff\xd8one"),
        ("images", "2.jpg", b"\xff\xd8two"),
    ]


def test_the_data_are_views_of_one_copy_of_the_body() -> None:
    body = part(NAMED, b"one") + part(NAMED, b"two") + b"--b--"
    first, second = form.parse(memoryview(body), MULTIPART)
    assert isinstance(first.data, memoryview)
    assert isinstance(second.data, memoryview)
    assert first.data.obj is second.data.obj
    (field, _) = form.parse(body, MULTIPART)
    assert isinstance(field.data, memoryview)
    assert field.data.obj is body


@fast
@given(st.lists(st.tuples(st.text(), st.binary()), min_size=1, max_size=5))
def test_any_data_come_through(files: list[tuple[str, bytes]]) -> None:
    request = requests.Request(
        "POST",
        "http://server/",
        files=[("f", ("name", data)) for _, data in files],
        data=[("t", text) for text, _ in files],
    ).prepare()
    assert isinstance(request.body, bytes)
    found = form.parse(request.body, request.headers["Content-Type"])
    assert [f.text for f in found if f.name == "t"] == [text for text, _ in files]
    assert [bytes(f.data) for f in found if f.name == "f"] == [data for _, data in files]


def test_a_urlencoded_form_is_read() -> None:
    assert fields_of(b"a=1&b=x+y%26%C3%A9&c&a=%FF", URLENCODED + "; charset=utf-8") == [
        ("a", None, b"1"),
        ("b", None, "x y&é".encode()),
        ("c", None, b""),
        ("a", None, b"\xff"),
    ]
    assert form.parse(b"", URLENCODED) == []


def test_white_space_after_a_boundary_and_what_follows_the_last_are_ignored() -> None:
    body = (
        b"--b\r\n" + NAMED + b"\r\n\r\n1\r\n--b \t\r\n" + NAMED + b"\r\n\r\n2\r\n--b--\r\nepilogue"
    )
    assert fields_of(body, MULTIPART) == [("a", None, b"1"), ("a", None, b"2")]


FORM = part(NAMED, b"1") + part(NAMED, b"2") + b"--b--\r\n"


@pytest.mark.parametrize(
    "preamble",
    [
        b"\r\n",
        b"This is a message of several parts in MIME format.\r\n",
        b"one line\r\n\r\n--other\r\n--bx\r\n-- b\r\n\xff\x00\r\n",
        b"x" * 100_000 + b"\r\n",
    ],
)
@pytest.mark.parametrize("epilogue", [b"", b"more", b"\r\n--b\r\n" + NAMED + b"\r\n\r\n3\r\n--b--"])
def test_a_preamble_and_an_epilogue_are_ignored(preamble: bytes, epilogue: bytes) -> None:
    two = [("a", None, b"1"), ("a", None, b"2")]
    assert fields_of(preamble + FORM + epilogue, MULTIPART) == two


def test_a_form_of_pythons_email_package_is_read() -> None:
    """It writes a header of the whole, a preamble, and breaks lines of headers."""
    message = MIMEMultipart("form-data", boundary="two words")
    message.preamble = "This is a multi-part message in MIME format."
    message.epilogue = "\r\nThat was it."
    for data in (b"one", b"two"):
        file = MIMEApplication(data, _encoder=encode_noop)
        file.add_header("Content-Disposition", "form-data", name="images", filename="1.jpg")
        message.attach(file)
    _, _, body = message.as_bytes(policy=message.policy.clone(linesep="\r\n")).partition(
        b"\r\n\r\n"
    )
    for content_type in (
        'multipart/form-data; boundary="two words"',
        'Multipart/Form-Data;charset=utf-8;  Boundary="two words"',
    ):
        assert fields_of(body, content_type) == [
            ("images", "1.jpg", b"one"),
            ("images", "1.jpg", b"two"),
        ]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "cut: expected --b-- at its end"),
        (part(NAMED, b"x"), "cut"),
        (part(NAMED, b"x") + b"--b", "cut"),
        (b"nothing", "Not multipart/form-data: Expected boundary character"),
        (b"--b\r\nno header\r\n\r\n\r\n--b--", "Found invalid character"),
        (part(b"X: 1", b"x") + b"--b--", r"Not a field of a form.*at `\[0\]`"),
        (part(b"Content-Disposition: attachment; name=a") + b"--b--", "Not a field of a form"),
        (part(b"Content-Disposition: form-data") + b"--b--", "Not a field of a form"),
        (part(b'Content-Disposition: form-data; name="\xff"') + b"--b--", "Not text"),
        (part(b"X: " + b"x" * 2000) + b"--b--", "Maximum header size exceeded"),
        (part(b"\r\n".join([b"X: 1"] * 9)) + b"--b--", "Maximum header count exceeded"),
        (part(NAMED) + b"--b" + b" " * 300 + b"\r\n", "Too much white space after a boundary"),
    ],
)
def test_refuses_what_is_no_form(body: bytes, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        form.parse(body, MULTIPART)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", MULTIPART + "x" * 999]
)
def test_refuses_a_content_type_without_a_usable_boundary(content_type: str) -> None:
    with pytest.raises(DecodeError, match="Content-Type"):
        form.parse(b"--b--", content_type)


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "multipart/mixed; boundary=b"])
def test_refuses_other_media_types(content_type: str | None) -> None:
    with pytest.raises(UnsupportedContentType, match="expected multipart/form-data or"):
        form.parse(b"", content_type)


def test_a_text_must_be_one() -> None:
    (field,) = form.parse(part(NAMED, b"\xff") + b"--b--", MULTIPART)
    with pytest.raises(DecodeError, match="got byte 0 - at `a`"):
        _ = field.text
    with pytest.raises(DecodeError, match="Not text"):
        form.parse(b"a=1&%FF=1", URLENCODED)


def test_the_number_of_fields_is_bounded() -> None:
    body = part(NAMED, b"1") * 3 + b"--b--"
    assert len(form.parse(body, MULTIPART, max_fields=3)) == 3
    assert len(form.parse(b"a=1&a=1&a=1", URLENCODED, max_fields=3)) == 3
    with pytest.raises(RequestTooLarge, match="too many fields: expected at most 2"):
        form.parse(body, MULTIPART, max_fields=2)
    with pytest.raises(RequestTooLarge, match="too many fields: expected at most 2"):
        form.parse(b"a=1&a=1&a=1", URLENCODED, max_fields=2)


def test_the_escapes_of_a_urlencoded_form_are_bounded() -> None:
    with pytest.raises(RequestTooLarge, match="Send multipart/form-data"):
        form.parse(b"%41" * 1_000_001, URLENCODED)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n--bx" * 2_000_000,
        b"\r\n--b" + b" \t" * 8_000_000,
        b"\r\n" * 8_000_000,
        b"\r\n--" * 4_000_000,
        b"-" * 16_000_000,
    ],
    ids=["no-boundaries", "padding", "lines", "almost", "hyphens"],
)
@pytest.mark.parametrize("head", [b"--b\r\n" + NAMED + b"\r\n\r\n", b"preamble"])
def test_no_body_is_parsed_byte_by_byte(data: bytes, head: bytes) -> None:
    """Byte by byte takes seconds of the processor; the longest of these takes a tenth of one."""
    started_at = process_time()
    with pytest.raises(InvalidRequest):
        form.parse(head + data, MULTIPART)
    assert process_time() - started_at < 2


def test_clients_faults_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(DecodeError):
        form.parse(b"nothing", MULTIPART)
    assert caplog.records == []


@fast
@given(st.binary(), st.sampled_from([MULTIPART, URLENCODED, BROWSER_TYPE, "", None]))
def test_any_body_is_a_form_or_refused(body: bytes, content_type: str | None) -> None:
    with contextlib.suppress(InvalidRequest):
        form.parse(b"--b\r\n" + body, content_type)


def test_a_file_is_less_work_than_many_fields_or_escapes() -> None:
    head = b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
    file, fields = head + b"\xff" * 10_000 + b"\r\n--B--\r\n", (head + b"1\r\n") * 180
    kind = "multipart/form-data; boundary=B"
    assert form.work_bytes(file, kind) < len(file) / 4
    assert form.work_bytes(fields, kind) > 4 * len(fields)
    escapes = b"a=" + b"%41" * 1000
    assert form.work_bytes(escapes, "application/x-www-form-urlencoded") > 4 * len(escapes)
