"""One kind of error for everything a user can get wrong: it names the culprit and the fix."""

from __future__ import annotations

import signal

LONGEST = 1000
"""Characters of a problem that are said: files may hold texts of any length."""


class UserError(Exception):
    """Bad input or an impossible request.

    Args:
        problem: what is wrong and where (the file, the key, the task).
        fix: what the user can do about it.
    """

    def __init__(self, problem: str, fix: str) -> None:
        problem = problem if len(problem) <= LONGEST else f"{problem[:LONGEST]}…"
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
    """Another process of the same job has ended, or is stuck."""


class Stopped(Exception):
    """A signal ended the work.

    Args:
        number: of the signal.
        advice: how to go on, where there is something to go on with.
    """

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{advice and '; '}{advice}")
        self.number = number
