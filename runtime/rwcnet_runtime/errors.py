"""The errors a user can meet.

Each message is one sentence or two: what was found, what was wanted, what to do.
"""


class RwcnetError(Exception):
    """Base of every error this package raises on purpose.

    ::

        RwcnetError
        ├── InputError     a file or a pair of files given by the user cannot be used
        ├── BundleError    the model bundle is missing or damaged
        └── BackendError   the engine, precision or backend is not available here
    """


class InputError(RwcnetError):
    """A file or a pair of files given by the user cannot be used."""


class BundleError(RwcnetError):
    """The model bundle is missing or damaged."""


class BackendError(RwcnetError):
    """The engine, precision or backend asked for is not available here."""
