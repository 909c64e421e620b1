"""The one exception type that is meant for users."""


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    `tools/train_net.py` and `tools/predict.py` print it without a traceback and exit with code 2.
    """
