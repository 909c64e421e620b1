"""What to type to go on with a run that was interrupted."""

import shlex
from collections.abc import Sequence
from pathlib import PurePath


def command_to_go_on(words: Sequence[str], config: str, options: Sequence[str], resume: bool) -> str:
    """The command line of a run, for a shell, with `--resume` if that is wanted.

    Args:
        words: as the run was started, `sys.orig_argv`.
        config: its --config-file; empty without any.
        options: the config overrides at its end, which nothing may follow.
        resume: whether it goes on from its last checkpoint.

    Returns:
        The command; for a program that was not started by such a line, as from a notebook, what to do in words.
    """
    start = len(words) - len(options)
    ours = list(words[start:]) == list(options) and any(word.endswith(config) for word in words)
    if start < 2 or not ours:
        return "start it again" + (", with --resume" if resume else "")
    # A console command is a script with Python's path in its first line.
    first = words[:start] if words[1].startswith("-") or PurePath(words[1]).suffix else words[1:start]
    return shlex.join([*first, *(["--resume"] if resume and "--resume" not in first else []), *options])
