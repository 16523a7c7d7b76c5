"""The errors that callers tell apart.

RsoError
├── UserError          bad data or configuration: shown as it is, never retried
│   └── OutOfMemoryError   the work does not fit the machine: shown with advice, never retried unchanged
└── TransientError     the same work may succeed later: retried, with a bound

A message says which value, what is required, what was received and what to do next.
`ValueError` is kept for programmers' mistakes.
"""


class RsoError(Exception):
    """Base of every error this project raises on purpose."""


class UserError(RsoError):
    """The data or the configuration is wrong; only the user can mend it."""


class OutOfMemoryError(UserError):
    """The work does not fit into the memory of the machine or the GPU."""


class TransientError(RsoError):
    """Something outside failed (disk, network, a killed process); trying again may help."""
