"""The Typer app, made from the drawer ``commands/``; the only place that turns errors into exit codes.

A file there is a command (``_`` becomes ``-``), a folder is a group. A command's help is the docstring of its ``run``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli import __version__
from freqkd_cli.errors import FreqKDError
from freqkd_cli.runtime import launch
from freqkd_cli.runtime.logs import log_to_stderr

COMMANDS = Path(__file__).parent / "commands"
FILE_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS}
FILE_TROUBLE |= {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
"""What an operating system refuses for reasons that are the user's to mend; other OSErrors are bugs."""

ABOUT = """Tell a student network what to copy from its SegFormer teacher: which stage, which frequency band.

\b
Examples:
  freqkd recipe list
  freqkd distill quickstart --out runs/a
"""


def main(argv: list[str] | None = None) -> None:
    """The console entry. ``--debug`` may stand anywhere before a ``--``."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    words = [word for word in words[:end] if word != "--debug"] + words[end:]
    with _first_only():
        build_app()(args=["--debug", *words] if debug else words, prog_name="freqkd")


@contextlib.contextmanager
def _first_only() -> Iterator[None]:
    """Of several processes the first alone talks; the others' errors go round this, see :func:`_tell`."""
    if launch.rank() == 0:
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def build_app(folder: Path = COMMANDS, package: str = "freqkd_cli.commands") -> typer.Typer:
    """The app with every command of the drawer."""
    app = typer.Typer(
        name="freqkd", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    settings = {"debug": False}

    @app.callback(help=ABOUT)
    def start(
        version: Annotated[
            bool,
            typer.Option(
                "--version", help="Print the version.", callback=_print_version, is_eager=True
            ),
        ] = False,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of every error.")
        ] = False,
    ) -> None:
        settings["debug"] = debug

    _add_commands(app, folder, package, settings)
    return app


def _add_commands(app: typer.Typer, folder: Path, package: str, settings: dict[str, bool]) -> None:
    for path in sorted(folder.iterdir(), key=lambda p: p.stem):
        name = path.stem.replace("_", "-")
        if path.name.startswith(("_", ".")):
            continue
        if path.suffix == ".py":
            module = importlib.import_module(f"{package}.{path.stem}")
            run = (
                module.run
                if getattr(module, "MANY_PROCESSES", False)
                else _in_the_first(module.run)
            )
            app.command(name, help=help_text(run))(_guarded(run, settings))
        elif (path / "__init__.py").is_file():
            group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
            about = importlib.import_module(f"{package}.{path.name}").__doc__
            app.add_typer(group, name=name, help=(about or "").strip())
            _add_commands(group, path, f"{package}.{path.name}", settings)


def help_text(run: Callable[..., Any]) -> str:
    """A command's docstring, its examples under a heading; they and indented lines keep their breaks (``\\b``), others are wrapped."""
    paragraphs = []
    for text in inspect.cleandoc(run.__doc__ or "").split("\n\n"):
        lines = text.splitlines()
        if lines and lines[0].lstrip().startswith("freqkd "):
            lines = ["Example:", *(f"  {line.strip()}" for line in lines)]
        kept = any(line.startswith(" ") for line in lines)
        paragraphs.append("\n".join(["\b", *lines] if kept else lines))
    return "\n\n".join(paragraphs)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"freqkd {__version__}")
        raise typer.Exit


def _in_the_first(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run``, in the first of several processes only."""

    @functools.wraps(run)
    def alone(*args: Any, **kwargs: Any) -> None:
        if launch.rank() == 0:
            run(*args, **kwargs)

    return alone


def _guarded(run: Callable[..., Any], settings: dict[str, bool]) -> Callable[..., None]:
    """``run`` with every error that is not a bug told in one message and turned into its exit code."""

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> None:
        # One voice: of several processes, the first tells what it does and the others only what went wrong.
        log_to_stderr(
            kwargs.get("verbose", 0) - kwargs.get("quiet", 0) if launch.rank() == 0 else -2
        )
        try:
            run(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError as error:
            _close_quietly()
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            _tell("interrupted")
            raise typer.Exit(130) from error
        except Exception as error:
            code = exit_code(error)
            if code is None and launch.processes() == 1:
                raise
            _tell(
                traceback.format_exc()
                if code is None or settings["debug"]
                else f"error: {told(error)}"
            )
            raise typer.Exit(code or 1) from error

    return guarded


def _tell(text: str) -> None:
    """Print an error to stderr; one of several processes puts its rank before it."""
    if launch.processes() == 1:
        print(text, file=sys.stderr)
        return
    print(f"[rank {launch.rank()}] {text}", file=sys.__stderr__, flush=True)


def exit_code(error: Exception) -> int | None:
    """The exit code of an error that a user can cause; None for a bug, which keeps its traceback."""
    if isinstance(error, FreqKDError):
        return error.exit_code
    if isinstance(error, OSError) and error.errno in FILE_TROUBLE:
        return 1
    return 1 if type(error).__name__ == "OutOfMemoryError" else None


def told(error: Exception) -> str:
    """The one message."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    if type(error).__name__ == "OutOfMemoryError":
        return f"{str(error).splitlines()[0]}\n  try  a smaller train.batch_size with train.accumulate, or a smaller data.size"
    return str(error)


def _close_quietly() -> None:
    """Whoever read our output has gone; let the interpreter's last flush go nowhere instead of complaining."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
