"""Source code of clients: simple_tensorflow_serving's gen_client, in bash, Python, Go, JavaScript.

They need nothing but their language, and `curl` for bash. What a request's headers say of the
server's address is checked before it becomes a part of source code.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from string import Template
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from rayserve_app.codecs import json
from rayserve_app.errors import InvalidRequest

# RFC 3986, section 3.2.2, without percent-encoding: a name, IPv4, or IPv6 in brackets.
_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]{1,100}){0,20}/?")

# The environment variables are named as upstream names its own flags, `STFS_*`.
_BASH: Final = Template(
    """\
#!/bin/bash

curl --silent --show-error --globoff --request POST \\
  --header 'Content-Type: application/json' \\
$credentials  --data-binary @- $endpoint <<'END_OF_REQUEST'
$request
END_OF_REQUEST
"""
)
_BASH_CREDENTIALS: Final = '  --user "$STFS_AUTH_USERNAME:$STFS_AUTH_PASSWORD" \\\n'

_PYTHON: Final = Template(
    """\
#!/usr/bin/env python3

${imports}import json
import sys
import urllib.error
import urllib.request

ENDPOINT = $endpoint
REQUEST = json.loads($request)


def main():
    headers = {"Content-Type": "application/json"}
$credentials    body = json.dumps(REQUEST).encode()
    request = urllib.request.Request(ENDPOINT, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request) as response:
            print(response.read().decode(), end="")
    except urllib.error.HTTPError as error:
        sys.exit(error.read().decode())


if __name__ == "__main__":
    main()
"""
)
_PYTHON_IMPORTS: Final = "import base64\nimport os\n"
_PYTHON_CREDENTIALS: Final = """\
    user = os.environ["STFS_AUTH_USERNAME"] + ":" + os.environ["STFS_AUTH_PASSWORD"]
    headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
"""

_GO: Final = Template(
    """\
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
)

const endpoint = $endpoint
const body = $request

func main() {
	request, err := http.NewRequest("POST", endpoint, strings.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
$credentials	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(answer))
	if response.StatusCode != http.StatusOK {
		os.Exit(1)
	}
}
"""
)
_GO_CREDENTIALS: Final = (
    '\trequest.SetBasicAuth(os.Getenv("STFS_AUTH_USERNAME"), os.Getenv("STFS_AUTH_PASSWORD"))\n'
)

_JAVASCRIPT: Final = Template(
    """\
#!/usr/bin/env node
// For Node.js 18 or later.

const endpoint = $endpoint;
const request = $request;

async function main() {
  const headers = {"Content-Type": "application/json"};
$credentials  const response = await fetch(endpoint, {
    method: "POST",
    headers: headers,
    body: JSON.stringify(request),
  });
  process.stdout.write(await response.text());
  process.exitCode = response.ok ? 0 : 1;
}

main();
"""
)
_JAVASCRIPT_CREDENTIALS: Final = """\
  const user = process.env.STFS_AUTH_USERNAME + ":" + process.env.STFS_AUTH_PASSWORD;
  headers["Authorization"] = "Basic " + Buffer.from(user).toString("base64");
"""


def endpoint_url(header: Callable[[str], str | None], prefix: str) -> str:
    """Return the URL under which a client reached a path: proxies say in `X-Forwarded-*` what they
    were asked, and otherwise `Host` does.

    Args:
        header: returns a request header's value by its name in lower case.
        prefix: the path, decoded.
    Returns:
        only letters, digits and `-._~:/%[]`.
    Raises:
        InvalidRequest: a header holds what is no part of a URL, or there is no `Host`.
    """
    scheme = _first(header("x-forwarded-proto")) or "http"
    if scheme not in ("http", "https"):
        raise InvalidRequest("Not a scheme", got=repr(scheme[:100]), path="X-Forwarded-Proto")
    forwarded = _first(header("x-forwarded-host"))
    host = forwarded or (header("host") or "").strip()
    if not _HOST.fullmatch(host):
        name = "X-Forwarded-Host" if forwarded else "Host"
        raise InvalidRequest("Not a host", expected="host:port", got=repr(host[:100]), path=name)
    outer = _first(header("x-forwarded-prefix"))
    if not _PREFIX.fullmatch(outer):
        raise InvalidRequest("Not a path", got=repr(outer[:100]), path="X-Forwarded-Prefix")
    return f"{scheme}://{host}{outer.rstrip('/')}{quote(prefix)}"


def write_client(
    language: str, endpoint: str, fields: Mapping[str, Any], *, has_auth: bool
) -> bytes:
    """Return the source of a client that sends one request and prints the answer.

    Args:
        language: one of LANGUAGES but `json`.
        endpoint: as `endpoint_url` returns it.
        fields: the request.
        has_auth: whether it must send credentials, which it takes from its environment.
    """
    request = json.encode(fields).decode()
    quote_endpoint, quote_request, template, credentials = _CLIENTS[language]
    text = template.substitute(
        endpoint=quote_endpoint(endpoint),
        request=quote_request(request),
        imports=_PYTHON_IMPORTS if has_auth else "",
        credentials=credentials if has_auth else "",
    )
    return text.encode()


def _json_string(text: str) -> str:
    return json.encode(text).decode()


_Quote: TypeAlias = Callable[[str], str]

_CLIENTS: Final[Mapping[str, tuple[_Quote, _Quote, Template, str]]] = {
    # The request is one line of a document there, as an argument can have no more than 128 KiB.
    "bash": (shlex.quote, str, _BASH, _BASH_CREDENTIALS),
    "python": (ascii, ascii, _PYTHON, _PYTHON_CREDENTIALS),
    # Go has JSON's escapes in its strings.
    "golang": (_json_string, _json_string, _GO, _GO_CREDENTIALS),
    "javascript": (_json_string, str, _JAVASCRIPT, _JAVASCRIPT_CREDENTIALS),
}

LANGUAGES: Final = (*_CLIENTS, "json")
"""What gen_client.py calls the languages; `json` is the example alone."""


def _first(value: str | None) -> str:
    """Return the first of a list, which is what the outermost proxy was asked."""
    return (value or "").partition(",")[0].strip()
