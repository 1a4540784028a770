"""The two ways a user can be wrong or unlucky; everything else is a bug and keeps its traceback."""


class UserError(Exception):
    """What was given, why it cannot work, what to write instead: one message, exit code 2.

    Raise it before anything is written. The command line prints the message without a traceback.
    """


class RunStopped(Exception):
    """A run ended before it did the steps asked for; what it had is saved. `code` is the exit status."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code
