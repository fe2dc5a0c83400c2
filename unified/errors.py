"""One kind of error for everything a user can get wrong: it names the culprit and the fix."""

from __future__ import annotations

import signal


class UserError(Exception):
    """Bad input or an impossible request.

    Args:
        problem: what is wrong and where (the file, the key, the task).
        fix: what the user can do about it.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}\n  fix: {fix}")
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        # Data-loading workers send their errors to the main process by pickle.
        return type(self), (self.problem, self.fix)


class DataError(UserError):
    """The data set on disk is missing, incomplete or malformed."""


class ConfigError(UserError):
    """The configuration asks for something unknown or impossible."""


class OutputError(UserError):
    """Something cannot be written."""


class JobError(UserError):
    """Another process of the same job has ended."""


class Stopped(Exception):
    """A signal ended the work.

    Args:
        number: of the signal.
        advice: how to go on.
    """

    def __init__(self, number: int, advice: str = "nothing was begun") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; {advice}")
        self.number = number
