"""The exceptions whose messages are written for users, and the exit codes that programs end with."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command with --resume continues the run
EXIT_CTRL_C = 130  # what a shell reports about a program that SIGINT ended


class UserError(Exception):
    """Something that the user can mend. The message says what is wrong, where, and what to do.

    `adet-iuq train`, `predict` and `demo` print it without a traceback and exit with code 2.
    """


class TrainingInterrupted(BaseException):
    """A signal ended the run; everything that had to be saved is saved.

    Like KeyboardInterrupt it may be raised anywhere, and code that catches every Exception does not catch it.

    Attributes:
        exit_code: the exit code of the program: 75, or 130 after Ctrl-C.
        resumes: whether the command with `--resume` continues the run. If not, the same command starts it again.
    """

    def __init__(self, message: str, exit_code: int = EXIT_INTERRUPTED, resumes: bool = True) -> None:
        super().__init__(message)
        self.exit_code, self.resumes = exit_code, resumes
