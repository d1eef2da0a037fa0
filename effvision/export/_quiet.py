"""Keeps what libraries say to their own developers away from the user's terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Swallow what is printed or warned; of these loggers, and of the root one, only errors are heard.

    Levels and handlers are as before afterwards: `logging.warning` gives the root logger a handler where it has none.
    """
    root = logging.getLogger()
    handlers = list(root.handlers)
    hushed = [(logger, logger.level) for logger in (root, *map(logging.getLogger, loggers))]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger, _ in hushed:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in hushed:
                logger.setLevel(level)
            for handler in [handler for handler in root.handlers if handler not in handlers]:
                root.removeHandler(handler)
