"""What a person sees of a run: short lines, and on a terminal one more that updates. log.txt has all of it in full.

A terminal is what rich takes for an interactive one. TERM=dumb or TTY_INTERACTIVE=0 make it plain lines, as they are in
pipes, files and continuous integration (CI is set); NO_COLOR leaves out colours.
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

# logger.info(..., extra=IN_LOG_ONLY): for log.txt, too long or too detailed for the console.
IN_LOG_ONLY: dict[str, Any] = {"in_log_only": True}
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}
_REFRESH_SECONDS = 0.5


class Display:
    """Standard output, with a last line that updates where that is a terminal.

    Attributes:
        is_terminal: whether there is such a line.
    """

    def __init__(self) -> None:
        self.console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self.is_terminal = sys.stdout.isatty() and self.console.is_interactive and not os.environ.get("CI")
        self._live: Live | None = None
        self._updated, self._keeps_prints = 0.0, False

    def print(self, line: str, style: str = "") -> None:
        """Prints above the line that updates; on a full disk, to which the output may go, nothing happens."""
        with suppress(OSError):
            self.console.print(Text(line, style))

    def is_due(self, seconds: float = _REFRESH_SECONDS) -> bool:
        """Whether so much time has gone by since the last `update`, or there was none."""
        return time.monotonic() - self._updated >= seconds

    def update(self, line: str) -> None:
        """Shows another line that updates; what does not fit into the width is cut off. Elsewhere: prints it."""
        self._updated = time.monotonic()
        if not self.is_terminal:
            self.print(f"{time.strftime('[%m/%d %H:%M:%S]')} {line}")
            return
        text = Text(line, no_wrap=True, overflow="ellipsis")
        if self._live is None:
            # No thread of its own, which would be there when data workers are forked.
            self._live = Live(text, console=self.console, auto_refresh=False, redirect_stdout=not self._keeps_prints)
            self._live.start(refresh=True)
            self.console.show_cursor(True)  # nobody could bring it back if the run were killed
        else:
            self._live.update(text, refresh=True)

    def close(self, erase: bool = False) -> None:
        """The end of the line that updates, which stays as it is or is erased; the next `update` begins another one."""
        if self._live is not None:
            self._live.transient = erase
            self._live.stop()
            self._live = None

    @contextmanager
    def prints_kept(self, log: logging.Logger) -> Iterator[None]:
        """Within, what others print (the COCO API its tables) goes to log.txt; lines of its own are erased at the end."""
        self.close()
        self.console.file, self._keeps_prints = self.console.file, True
        try:
            with redirect_stdout(_LogLines(log)):
                try:
                    yield
                finally:
                    self.close(erase=True)
        finally:
            self.console.file, self._keeps_prints = None, False  # type: ignore[assignment]  # whatever sys.stdout is


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
    """That of this process, which has one terminal."""
    return Display()


class ConsoleHandler(logging.Handler):
    """Prints what is for people: this project's messages, and everybody's warnings and errors."""

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
    """Puts a `ConsoleHandler` into the place of the handler by which detectron2 prints all of a log."""
    for handler in list(log.handlers):
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            log.removeHandler(handler)
            log.addHandler(ConsoleHandler())
