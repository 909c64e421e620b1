"""How the page is started and served."""

import importlib.util
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from adet_iuq.errors import UserError
from adet_iuq.web import server
from adet_iuq.web.app import main

NEEDS_GRADIO = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason='gradio is not installed: pip install -e ".[demo]"'
)


def test_what_is_wrong_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    assert main(["--run", str(tmp_path)]) == 2
    assert 'pip install -e ".[demo]"' in capsys.readouterr().err


@NEEDS_GRADIO
@pytest.mark.parametrize(
    "words,message",
    [
        ([], "No weights"),
        (["--run", "EMPTY"], "no weights in"),
        (["--weights", "x.pth"], "No config"),
        (["--weights", "x.pth", "--config-file", "CondInst/R50_1x_iq.yaml"], "Did you mean CondInst/R50_1x_iuq.yaml"),
    ],
)
def test_what_is_missing_is_said(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path) if word == "EMPTY" else word for word in words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "host,local",
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("box", False),
    ],
)
def test_addresses_that_other_machines_reach(host: str, local: bool) -> None:
    assert server.is_local(host) is local


class NoApp:
    """Takes gr.Blocks' place; fails like a port that is taken."""

    def queue(self, **settings: Any) -> "NoApp":
        return self

    def launch(self, **settings: Any) -> None:
        self.settings = settings
        raise OSError("Cannot find empty port")


def test_a_page_for_others_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    app = NoApp()
    with pytest.raises(UserError, match=r"cannot be served at 0\.0\.0\.0, port 80"):
        server.launch(app, "", "0.0.0.0", 80)
    assert "no login" in capsys.readouterr().err
    assert app.settings["server_name"] == "0.0.0.0" and app.settings["share"] is False
    with pytest.raises(UserError, match="from 7860 on"):
        server.launch(app, "", "127.0.0.1", None)
    assert capsys.readouterr().err == ""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@NEEDS_GRADIO
def test_no_file_of_this_machine_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor may anything on the page come from elsewhere, or the page stand within another one."""
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", str(tmp_path))
    server.prepare_gradio(str(tmp_path / "uploads"))
    import gradio

    with gradio.Blocks(analytics_enabled=False) as app:
        gradio.Markdown("hello")
    monkeypatch.setattr(app, "block_thread", lambda: None)
    port = free_port()
    server.launch(app, "", "127.0.0.1", port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "http" not in policy and "frame-ancestors 'none'" in policy
        for file in ("secret.txt", str(tmp_path / "secret.txt"), "/etc/passwd"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/gradio_api/file={file}")
    finally:
        app.close()
