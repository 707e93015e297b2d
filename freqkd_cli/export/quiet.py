"""How torch's exporters, and libraries that read what they wrote, are heard: not at all, or in one message."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from freqkd_cli.errors import FreqKDError


@contextlib.contextmanager
def exporter_voice(what: str, tip: str) -> Iterator[None]:
    """Keep the exporter's chatter off stdout and stderr, and turn its failure into one message that ends with ``tip``.

    Raises:
        FreqKDError: the body failed; the first line of its error is in the message.
    """
    said = io.StringIO()
    level = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    except (FreqKDError, OSError, MemoryError):
        raise
    except Exception as error:  # the exporters raise classes from four packages; all of them mean that this model cannot be written
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        got = f"{type(error).__name__}: {lines[0][:200]}"
        raise FreqKDError(what, got=got, tip=f"{tip}; --debug shows all of it") from error
    finally:
        logging.disable(level)
