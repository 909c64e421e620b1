"""Serves the page, by default to this machine alone, without contact to any other machine."""

import importlib.util
import ipaddress
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from adet_iuq.errors import UserError

MAX_FILE_SIZE = "64mb"  # largest dropped picture
MAX_VISITORS = 8  # number of visitors whose pictures and masks are kept in memory
# The page fetches nothing from elsewhere, and cannot be embedded in another page.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; form-action 'self'; "
        "base-uri 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Settings that gradio reads from the environment when it is imported or starts.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ALLOWED_PATHS": ""}


def prepare_gradio(folder: str) -> None:
    """Prepares the import of gradio: it must report nothing, and keep dropped files in `folder`.

    Raises:
        UserError: gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError('The page needs gradio, which is not installed. Install it with: pip install -e ".[demo]"')
    os.environ.update(QUIET, GRADIO_TEMP_DIR=folder)


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def launch(app: Any, css: str, host: str, port: int | None) -> None:
    """Serves a gradio app until it is interrupted.

    Args:
        app: the app, a gr.Blocks.
        css: the page's style sheet.
        host: the address to listen at.
        port: the port; None: a free one from 7860 on.

    Raises:
        UserError: the address is not available.
    """
    if not is_local(host):
        print(
            f"Warning: --host {host} lets other machines in, and the page has no login: whoever reaches it can use it.",
            file=sys.stderr,
        )
    try:
        _, url, _ = app.queue(default_concurrency_limit=1, max_size=32).launch(
            server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, css=css,
            max_file_size=MAX_FILE_SIZE, state_session_capacity=MAX_VISITORS, strict_cors=True,
            allowed_paths=[], footer_links=[], run_history=False, enable_monitoring=False, pwa=False,
            mcp_server=False, ssr_mode=False, app_kwargs={"middleware": [(Headers, (), {})], "openapi_url": None},
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"The page cannot be served at {host}, port {port or 'from 7860 on'}: {error}") from error
    print(f"The page is at {url} (Ctrl-C ends it)", flush=True)
    app.block_thread()


class Headers:
    """Adds `HEADERS` to every answer; ASGI middleware."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Callable[..., Awaitable[None]]) -> None:
        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        await self.app(scope, receive, with_headers)
