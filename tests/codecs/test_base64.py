from __future__ import annotations

import base64 as stdlib
import email.base64mime
from contextlib import suppress
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayserve_app.codecs import base64
from rayserve_app.codecs.base64 import Alphabet
from rayserve_app.errors import DecodeError

GOLDEN = Path(__file__).parent / "golden" / "base64"
fast = settings(derandomize=True, deadline=None, max_examples=50)


@pytest.mark.parametrize("name", ["coreutils", "openssl", "urlsafe_unpadded"])
def test_reads_what_other_tools_wrote(name: str) -> None:
    text = (GOLDEN / f"{name}.txt").read_text()
    assert base64.decode(text) == (GOLDEN / "bytes.bin").read_bytes()


def test_writes_what_coreutils_writes() -> None:
    data = (GOLDEN / "bytes.bin").read_bytes()
    assert base64.encode(data) == (GOLDEN / "coreutils.txt").read_text()


@fast
@given(st.binary(), st.booleans(), st.booleans(), st.sampled_from([str, str.encode, bytearray]))
def test_round_trip(data: bytes, urlsafe: bool, padded: bool, kind: type) -> None:
    text = base64.encode(memoryview(data), urlsafe=urlsafe)
    assert text.encode() == (stdlib.urlsafe_b64encode if urlsafe else stdlib.b64encode)(data)
    if not padded:
        text = text.rstrip("=")
    payload = bytearray(text, "ascii") if kind is bytearray else kind(text)
    assert base64.decode(payload) == data
    assert base64.decode(payload, alphabet="urlsafe" if urlsafe else "standard") == data


def test_any_takes_both_alphabets_in_one_text() -> None:
    assert base64.decode("-_+/") == stdlib.b64decode("+/+/")


@pytest.mark.parametrize(
    ("text", "alphabet", "sentence"),
    [
        ("QUJD!QUJD", "any", r"letters, digits and '\+/' or '-_', got '!' at offset 4$"),
        ("QUJD\nQU!D", "any", "got '!' at offset 7$"),
        ("data:image/png;base64,QU!D", "any", "got '!' at offset 24$"),
        ("data:image/png,QUJD", "any", "got ':' at offset 4$"),
        (b"QU\xffD", "any", r"got '\xff' at offset 2$"),
        ("QUé=", "any", "got 'é' at offset 2$"),
        ("QU=D", "any", "got '=' at offset 2$"),
        ("QU J", "any", "got ' ' at offset 2$"),
        ("QUJ-", "standard", r"'\+' and '/', got '-' at offset 3$"),
        ("QUJ/", "urlsafe", "'-' and '_', got '/' at offset 3$"),
        ("-_+/", "urlsafe", r"got '\+' at offset 2$"),
        ("QUJDQ", "any", "a length that leaves 0, 2 or 3 .*, got 5 characters$"),
        ("Q===", "any", "a length"),
        ("QQ=", "any", "no padding, or 2 '=' for 2 characters, got 1 '=' at its end$"),
        ("QUI==", "any", "no padding, or 1 '=' for 3 characters, got 2 '='"),
        ("QUJD====", "any", "no padding, or 0 '=' for 4 characters, got 4 '='"),
        ("====", "any", "got 4 '=' at its end"),
    ],
)
def test_refuses_and_says_where(text: str | bytes, alphabet: Alphabet, sentence: str) -> None:
    with pytest.raises(DecodeError, match=sentence):
        base64.decode(text, alphabet=alphabet)


DATA = bytes(range(256)) * 3


@pytest.mark.parametrize(
    "text",
    [
        stdlib.encodebytes(DATA).decode(),
        email.base64mime.body_encode(DATA, eol="\r\n"),
        "\n  " + stdlib.b64encode(DATA).decode() + "\r\n",
        "\t" + stdlib.urlsafe_b64encode(DATA).decode().rstrip("=") + "\n",
        "data:image/png;base64," + stdlib.b64encode(DATA).decode(),
        "DATA:;BASE64," + stdlib.b64encode(DATA).decode(),
        "\ndata:image/svg+xml;charset=utf-8;base64,\n" + stdlib.encodebytes(DATA).decode(),
    ],
)
def test_skips_line_breaks_and_the_head_of_a_data_url(text: str) -> None:
    assert base64.decode(text) == base64.decode(text.encode()) == DATA


def test_a_space_within_a_line_is_what_a_form_makes_of_a_plus() -> None:
    text = base64.encode(DATA)
    assert "+" in text
    for lines in (text, stdlib.encodebytes(DATA).decode()):
        with pytest.raises(DecodeError, match=r"got ' ' at offset"):
            base64.decode(lines.replace("+", " "))


@pytest.mark.parametrize("piece", ["\n", " \n", "a\n", "a \n", "\r", " ", "data:;base64,"])
def test_no_text_is_read_byte_by_byte(piece: str) -> None:
    """Byte by byte it would be seconds of the processor; the longest takes a tenth of one."""
    started_at = process_time()
    for text in (piece * 300_000, " " + piece * 300_000):
        with suppress(DecodeError):
            base64.decode(text)
    assert process_time() - started_at < 2


@fast
@given(st.text() | st.binary(), st.sampled_from(["any", "standard", "urlsafe"]))
def test_arbitrary_text_raises_decode_error_at_most(text: str | bytes, alphabet: Alphabet) -> None:
    try:
        decoded = base64.decode(text, alphabet=alphabet)
    except DecodeError:
        return
    raw = text.encode() if isinstance(text, str) else text
    digits = b"".join(raw.split()).rstrip(b"=")
    assert len(decoded) == len(digits) * 3 // 4
