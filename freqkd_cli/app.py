"""The Typer app, made from the drawer ``commands/``; the only place that turns errors into exit codes.

A file there is a command (``_`` becomes ``-``), a folder is a group. A command's help is the docstring of its ``run``.
"""

from __future__ import annotations

import errno
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli import __version__
from freqkd_cli.errors import FreqKDError

COMMANDS = Path(__file__).parent / "commands"
FILE_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}
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
    build_app()(args=["--debug", *words] if debug else words, prog_name="freqkd")


def build_app(folder: Path = COMMANDS, package: str = "freqkd_cli.commands") -> typer.Typer:
    """The app with every command of the drawer."""
    app = typer.Typer(name="freqkd", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    settings = {"debug": False}

    @app.callback(help=ABOUT)
    def start(
        version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
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
            run = importlib.import_module(f"{package}.{path.stem}").run
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


def _guarded(run: Callable[..., Any], settings: dict[str, bool]) -> Callable[..., None]:
    """``run`` with every error that is not a bug told in one message and turned into its exit code."""

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            run(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError as error:
            _close_quietly()
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from error
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            if settings["debug"]:
                traceback.print_exc()
            else:
                print(f"error: {told(error)}", file=sys.stderr)
            raise typer.Exit(code) from error

    return guarded


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
