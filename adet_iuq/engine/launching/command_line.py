"""The command that continues an interrupted run."""

import shlex
from collections.abc import Sequence
from pathlib import PurePath


def command_to_go_on(words: Sequence[str], config: str, options: Sequence[str], resume: bool) -> str:
    """The command line of a run, for a shell, with `--resume` if that is wanted.

    Args:
        words: the words that started the run, `sys.orig_argv`.
        config: its --config-file; empty if there is none.
        options: the config overrides at its end, which nothing may follow.
        resume: whether the run continues from its last checkpoint.

    Returns:
        The command. If no such line started the program, as in a notebook, a sentence that says what to do.
    """
    start = len(words) - len(options)
    ours = list(words[start:]) == list(options) and any(word.endswith(config) for word in words)
    if start < 2 or not ours:
        return "start it again" + (", with --resume" if resume else "")
    # A console command is a script. Python's path, its first word, is not part of what the user typed.
    first = words[:start] if words[1].startswith("-") or PurePath(words[1]).suffix else words[1:start]
    return shlex.join([*first, *(["--resume"] if resume and "--resume" not in first else []), *options])
