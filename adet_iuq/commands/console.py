"""The console command `adet-iuq`, which finds a command's main function and passes the other words to it.

Nothing here imports torch, so that `adet-iuq --help` answers at once.
"""

import difflib
import importlib
import sys

from adet_iuq import __version__
from adet_iuq.errors import EXIT_USER_ERROR

# For each command its purpose, and its module with `main(words: list[str] | None) -> int`, which returns the exit code.
COMMANDS = {
    "train": ("trains and evaluates what a config describes, on any number of processes", "commands.train"),
    "predict": ("pictures and one COCO-format JSON file of predictions on images", "commands.predict"),
    "check": ("checks data sets before any training", "commands.check"),
    "convert": ("converts weights of other projects to this one's names and back", "commands.convert"),
    "demo": ("predictions on pictures, videos or a webcam, as pictures, JSON or video", "commands.demo"),
    "web": ("a page in the browser: masks, and where the query of an instance fires", "web.app"),
    "report": ("the page about a finished run", "reporting.__main__"),
}


def help_text() -> str:
    """The text that `adet-iuq --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, (purpose, _) in COMMANDS.items()]
    return "\n".join(
        ["usage: adet-iuq [--help] [--version] COMMAND ...", "", "commands:", *lines, "", "adet-iuq COMMAND --help"]
    )


def main(words: list[str] | None = None) -> int:
    """Runs one command; returns its exit code.

    Args:
        words: the command line without the program's name; None: that of this process.
    """
    import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports
    import adet_iuq.threads  # noqa: F401  before torch: threads that wait leave their core to others

    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print(help_text(), file=sys.stdout if words else sys.stderr)
        return 0 if words else EXIT_USER_ERROR
    if words[0] == "--version":
        print(f"adet-iuq {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        print(f"Error: adet-iuq has no command {name!r}.{hint} It has {', '.join(COMMANDS)}.", file=sys.stderr)
        return EXIT_USER_ERROR
    sys.argv[0] = f"adet-iuq {name}"  # the program's name in argparse's messages
    code: int = importlib.import_module(f"adet_iuq.{COMMANDS[name][1]}").main(rest)
    return code
