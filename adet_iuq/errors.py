"""The exceptions that are meant for users, and the exit codes that programs end with."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: start the same command again, with --resume
EXIT_CTRL_C = 130  # what a shell reports of a program that SIGINT ended


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    `adet-iuq train`, `predict` and `demo` print it without a traceback and exit with code 2.
    """


class TrainingInterrupted(BaseException):
    """A signal ended the run, and nothing is lost that was to be kept.

    Like KeyboardInterrupt it may come from anywhere, and passes by whoever catches every Exception.

    Attributes:
        exit_code: of the program: 75, or 130 after Ctrl-C.
        resumes: whether the same command with `--resume` goes on; else the command as it was starts again.
    """

    def __init__(self, message: str, exit_code: int = EXIT_INTERRUPTED, resumes: bool = True) -> None:
        super().__init__(message)
        self.exit_code, self.resumes = exit_code, resumes
