"""Torch's exporters and the libraries that read their files: silent, or one error message."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from freqkd_cli.errors import FreqKDError


@contextlib.contextmanager
def quiet_exporter(what: str, tip: str) -> Iterator[None]:
    """Keep the exporter's output off stdout and stderr, and turn its failure into one message.

    Args:
        what: what is wrong where the body fails.
        tip: what to do then.

    Raises:
        FreqKDError: the body failed; the first line of its error is in the message.
    """
    ignored = io.StringIO()
    level = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)
        with (
            contextlib.redirect_stdout(ignored),
            contextlib.redirect_stderr(ignored),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    except (FreqKDError, OSError, MemoryError):
        raise
    except Exception as error:  # exporters raise classes of four packages, all with one meaning
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        got = f"{type(error).__name__}: {lines[0][:200]}"
        raise FreqKDError(what, got=got, tip=f"{tip}; --debug shows the whole error") from error
    finally:
        logging.disable(level)
