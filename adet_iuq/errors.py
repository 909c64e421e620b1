"""The exceptions that are meant for users, and the exit codes that programs end with."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: start the same command again, with --resume


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    `adet-iuq train`, `predict` and `demo` print it without a traceback and exit with code 2.
    """


class TrainingInterrupted(BaseException):
    """A signal ended the run, and all of it is saved: the same command goes on with `--resume`. Exit code 75.

    Like KeyboardInterrupt it may come from anywhere, and passes by whoever catches every Exception.
    """
