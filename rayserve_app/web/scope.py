"""What stands in the ASGI scope of a request within Serve, and whose it is."""

from __future__ import annotations

from typing import Final

CLIENT_HEADERS: Final = "rayserve_app.client_headers"
"""The key under which the app finds all headers of a request: Serve sees only some."""

REQUEST_ID: Final = b"x-request-id"
