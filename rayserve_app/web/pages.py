"""Plain pages for browsers: a gateway's list of models, and one model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from rayserve_app.media_types import preferences

MEDIA_TYPE: Final = "text/html; charset=utf-8"

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #ddd;
  vertical-align: top; }}
code, pre {{ font: 14px/1.45 ui-monospace, monospace; background: #f5f5f5; }}
pre {{ padding: .8rem; overflow-x: auto; }}
.no {{ color: #a40000; }}
</style>
</head>
<body>
<h1>{title}</h1>
{content}
</body>
</html>
"""


class ModelLink(NamedTuple):
    """What the list says of a model."""

    name: str
    prefix: str
    is_ready: bool


def is_wanted(accept: str) -> bool:
    """Return whether a client is a browser: it prefers HTML to JSON in `Accept`, by weight, then by
    its order."""
    for value, weight in sorted(preferences(accept), key=lambda each: -each.weight):
        if value in ("text/html", "application/json"):
            return value == "text/html" and weight > 0
    return False


def model_list(models: Sequence[ModelLink]) -> bytes:
    """Return the page that lists models and their links."""
    rows = "".join(
        f'<tr><td><a href="{_href(each.prefix)}">{escape(each.name)}</a></td>'
        f"<td>{_readiness(each.is_ready)}</td>"
        f'<td><a href="{_href(each.prefix + "/openapi.json")}">OpenAPI</a></td></tr>\n'
        for each in models
    )
    content = (
        f"<table>\n<tr><th>Model</th><th>State</th><th>Interface</th></tr>\n{rows}</table>\n"
        if models
        else "<p>No model is served at the moment.</p>\n"
    )
    return _page("Models", f'{content}<p>All paths: <a href="openapi.json">openapi.json</a></p>')


def model(description: Mapping[str, Any], prefix: str, paths: Sequence[tuple[str, str]]) -> bytes:
    """Return the page of one model.

    Args:
        description: what `Model.describe` says.
        paths: method and path below the prefix of all that it answers.
    """
    rows = "".join(
        f"<tr><td>{escape(method)}</td><td><code>{escape(prefix + path)}</code></td></tr>\n"
        for method, path in paths
    )
    content = (
        f"<p>{_readiness(bool(description['ready']))}, {escape(str(description['platform']))}, "
        f"version {escape(str(description['version']))}. "
        f'<a href="{_href(prefix + "/openapi.json")}">OpenAPI</a></p>\n'
        f"<h2>Paths</h2>\n<table>\n{rows}</table>\n"
        f"<h2>Description</h2>\n<pre>{escape(json.dumps(description, indent=2))}</pre>\n"
    )
    return _page(str(description["name"]), content)


def _page(title: str, content: str) -> bytes:
    return _PAGE.format(title=escape(title), content=content).encode()


def _href(path: str) -> str:
    return escape(quote(path), quote=True)


def _readiness(is_ready: bool) -> str:
    return "Ready" if is_ready else '<span class="no">Not ready</span>'
