"""simple_tensorflow_serving's forms for browsers, with the answer to what they sent below.

Everything that comes from a client or a model is escaped, and the pages run no script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Final, NamedTuple

HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}

_PAGE: Final = Template(
    """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title - $model</title>
<style>
body { font: 1rem/1.5 sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }
label { display: block; margin: 0.5rem 0; }
textarea { width: 100%; }
pre { background: #f3f3f3; padding: 1rem; overflow: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<form action="$action" method="post" enctype="multipart/form-data">
<label>Model <input name="model_name" value="$model"></label>
$fields
<button>Send</button>
</form>
$answer
</body>
</html>
"""
)

_VERSION: Final = '<label>Version <input name="model_version" placeholder="default"></label>'
_SIGNATURE: Final = '<label>Signature <input name="signature_name" placeholder="default"></label>'


class Page(NamedTuple):
    """One form: `action` is what it is sent to, beside it."""

    title: str
    action: str
    fields: Sequence[str]

    def render(self, model_name: str, answer: str | None = None, *, is_error: bool = False) -> str:
        """Return the page, with the answer to what was sent if there is one."""
        heading = "Error" if is_error else "Result"
        return _PAGE.substitute(
            title=escape(self.title),
            model=escape(model_name),
            action=escape(self.action),
            fields="\n".join(self.fields),
            answer="" if answer is None else f"<h2>{heading}</h2>\n<pre>{escape(answer)}</pre>",
        )


IMAGE: Final = Page(
    "Image inference",
    "run_image_inference",
    (
        _VERSION,
        _SIGNATURE,
        '<label>Image <input type="file" name="image" accept="image/*" required></label>',
    ),
)

JSON: Final = Page(
    "JSON inference",
    "run_json_inference",
    (
        _VERSION,
        _SIGNATURE,
        '<label>Data <textarea name="json_data" rows="12" required></textarea></label>',
    ),
)


def clients_page(languages: Sequence[str]) -> Page:
    """Return the form that asks for a client's source in one of the languages."""
    options = "".join(f"<option>{escape(language)}</option>" for language in languages)
    return Page(
        "Generate clients",
        "run_generate_clients",
        (_SIGNATURE, f'<label>Language <select name="language">{options}</select></label>'),
    )
