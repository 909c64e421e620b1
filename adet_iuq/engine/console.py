"""What a person sees of a run: short lines, and on a terminal one more line that updates. log.txt has everything in full.

The module relies on rich to tell a terminal. TERM=dumb or TTY_INTERACTIVE=0 give plain lines, as in pipes, in files and
in continuous integration (where CI is set); NO_COLOR leaves out colours.
"""

import io
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

# logger.info(..., extra=IN_LOG_ONLY) is for log.txt alone: messages that are too long or too detailed for the console.
IN_LOG_ONLY: dict[str, Any] = {"in_log_only": True}
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}
_REFRESH_SECONDS = 0.5


class Display:
    """Standard output, with a last line that updates if the output is a terminal.

    Attributes:
        is_terminal: whether there is such a line.
    """

    def __init__(self) -> None:
        self.console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.is_terminal = sys.stdout.isatty() and self.console.is_interactive and not os.environ.get("CI")
        self._live: Live | None = None
        self._updated, self._keeps_prints = 0.0, False

    def print(self, line: str, style: str = "") -> None:
        """Prints above the line that updates. If the output goes to a full disk, nothing happens."""
        with suppress(OSError):
            self.console.print(Text(line, style))

    def is_due(self, seconds: float = _REFRESH_SECONDS) -> bool:
        """Whether so many seconds have passed since the last `update`, or whether there was none yet."""
        return time.monotonic() - self._updated >= seconds

    def update(self, line: str) -> None:
        """Shows a new text in the line that updates, cut to the width. Without a terminal it prints the text."""
        self._updated = time.monotonic()
        if not self.is_terminal:
            self.print(f"{time.strftime('[%m/%d %H:%M:%S]')} {line}")
            return
        text = Text(line, no_wrap=True, overflow="ellipsis")
        if self._live is None:
            # rich may not start a thread, which would exist while data workers are forked.
            self._live = Live(text, console=self.console, auto_refresh=False, redirect_stdout=not self._keeps_prints)
            self._live.start(refresh=True)
            self.console.show_cursor(True)  # a killed run could not bring it back
        else:
            self._live.update(text, refresh=True)

    def close(self, erase: bool = False) -> None:
        """Ends the line that updates, which stays as it is or is erased; the next `update` begins another one."""
        if self._live is not None:
            self._live.transient = erase
            self._live.stop()
            self._live = None

    @contextmanager
    def prints_kept(self, log: logging.Logger) -> Iterator[None]:
        """Sends what others print (the COCO API its tables) to log.txt; at the end the line that updates is erased."""
        self.close()
        self.console.file, self._keeps_prints = self.console.file, True
        try:
            with redirect_stdout(_LogLines(log)):
                try:
                    yield
                finally:
                    self.close(erase=True)
        finally:
            self.console.file, self._keeps_prints = None, False  # type: ignore[assignment]  # None: sys.stdout, always


class _LogLines(io.TextIOBase):
    """A file whose lines become messages for log.txt."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._rest = log, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._log.info(line, extra=IN_LOG_ONLY)
        return len(text)


@cache
def display() -> Display:
    """The display of this process, which has one terminal."""
    return Display()


class ConsoleHandler(logging.Handler):
    """Prints the messages that are for people: this project's own, and the warnings and errors of all others."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(is_for_people)
        time_format = "%H:%M:%S" if display().is_terminal else "[%m/%d %H:%M:%S]"
        self.setFormatter(logging.Formatter("%(asctime)s %(prefix)s%(message)s", time_format))

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        record.prefix = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        try:
            display().print(self.format(record), _STYLES.get(record.levelno, ""))
        except Exception:
            self.handleError(record)


def is_for_people(record: logging.LogRecord) -> bool:
    """Whether a record belongs on the console."""
    if record.levelno >= logging.WARNING:
        return True
    return record.name.startswith("adet_iuq.") and "in_log_only" not in vars(record)


def print_for_people(log: logging.Logger) -> None:
    """Replaces the handler by which detectron2 prints a whole log by a `ConsoleHandler`."""
    for handler in list(log.handlers):
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            log.removeHandler(handler)
            log.addHandler(ConsoleHandler())
