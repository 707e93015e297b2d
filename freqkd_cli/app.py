"""The Typer app, made from the files of ``commands/``. Only here errors become exit codes.

A file there is a command (``_`` becomes ``-``), a folder is a group. A command's help is the
docstring of its ``run``.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli import __version__
from freqkd_cli.errors import FreqKDError
from freqkd_cli.runtime import launch, streams
from freqkd_cli.runtime.logs import log_to_stderr
from freqkd_cli.runtime.memory import out_of_memory

COMMANDS = Path(__file__).parent / "commands"
USER_OS_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS}
USER_OS_ERRORS |= {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EIO}
USER_OS_ERRORS |= {errno.ENOMEM}
"""Refusals of the operating system that a user can do something about; others are bugs."""


ABOUT = """Distil a SegFormer into a real-time student, by stage, frequency band or patch graph.

\b
Examples:
  freqkd recipe list
  freqkd distill quickstart --out runs/a
"""


def main(argv: list[str] | None = None) -> None:
    """Run the command line. ``--debug`` may stand anywhere before a ``--``."""
    streams.prepare()
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    words = [word for word in words[:end] if word != "--debug"] + words[end:]
    try:
        with _output_of_first_process():
            words = ["--debug", *words] if debug else words
            build_app(words=words)(args=words, prog_name="freqkd")
    except OSError as error:  # of the help and the version, which run outside of any command
        if exit_code(error) is None:
            raise
        error.filename = error.filename or "standard output"
        _report(f"error: {message(error)}")
        raise SystemExit(1) from error
    finally:
        streams.drop_broken_output()


@contextlib.contextmanager
def _output_of_first_process() -> Iterator[None]:
    """Discard the output of all processes but the first; :func:`_report` bypasses this."""
    if launch.rank() == 0:
        yield
        return
    with (
        open(os.devnull, "w") as null,
        contextlib.redirect_stdout(null),
        contextlib.redirect_stderr(null),
    ):
        yield


def build_app(
    folder: Path = COMMANDS, package: str = "freqkd_cli.commands", words: Sequence[str] = ()
) -> typer.Typer:
    """Return the app with every command of ``folder``.

    Args:
        words: the command line, for the processes that ``--nproc`` starts.
    """
    app = typer.Typer(
        name="freqkd",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    settings: dict[str, Any] = {"debug": False, "words": words}

    @app.callback(help=ABOUT)
    def start(
        version: Annotated[
            bool,
            typer.Option(
                "--version",
                help="Print the version and exit.",
                callback=_print_version,
                is_eager=True,
            ),
        ] = False,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of every error.")
        ] = False,
    ) -> None:
        settings["debug"] = debug

    _add_commands(app, folder, package, settings)
    return app


def _add_commands(app: typer.Typer, folder: Path, package: str, settings: dict[str, Any]) -> None:
    for path in sorted(folder.iterdir(), key=lambda p: p.stem):
        name = path.stem.replace("_", "-")
        if path.name.startswith(("_", ".")):
            continue
        if path.suffix == ".py":
            module = importlib.import_module(f"{package}.{path.stem}")
            parallel = getattr(module, "MANY_PROCESSES", False)
            run = module.run if parallel else _in_first_process(module.run)
            app.command(name, help=help_text(run))(_guarded(run, settings))
        elif (path / "__init__.py").is_file():
            group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
            about = importlib.import_module(f"{package}.{path.name}").__doc__
            app.add_typer(group, name=name, help=(about or "").strip())
            _add_commands(group, path, f"{package}.{path.name}", settings)


def help_text(run: Callable[..., Any]) -> str:
    """Return a command's docstring for Typer, its examples under a heading.

    Examples and indented lines keep their line breaks (``\\b``); other paragraphs are wrapped.
    """
    paragraphs = []
    for text in inspect.cleandoc(run.__doc__ or "").split("\n\n"):
        lines = text.splitlines()
        if lines and lines[0].lstrip().startswith("freqkd "):
            lines = ["Example:", *(f"  {line.strip()}" for line in lines)]
        kept = any(line.startswith(" ") for line in lines)
        paragraphs.append("\n".join(["\b", *lines] if kept else lines))
    return "\n\n".join(paragraphs)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"freqkd {__version__}")
        raise typer.Exit


def _in_first_process(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``run`` as a function that does nothing in any process but the first."""

    @functools.wraps(run)
    def first_only(*args: Any, **kwargs: Any) -> None:
        if launch.rank() == 0:
            run(*args, **kwargs)

    return first_only


def _guarded(run: Callable[..., Any], settings: dict[str, Any]) -> Callable[..., None]:
    """Return ``run`` with every error that is not a bug as one message and its exit code."""

    @functools.wraps(run)
    def guarded(*args: Any, **kwargs: Any) -> None:
        verbosity = kwargs.get("verbose", 0) - kwargs.get("quiet", 0)
        log_to_stderr(verbosity if launch.rank() == 0 else -2)
        number = kwargs.pop("nproc", None)
        try:
            if number is not None and number != launch.processes():
                raise typer.Exit(_in_processes(number, settings["words"], kwargs["device"]))
            run(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError as error:
            streams.drop_broken_output()
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            _report("interrupted")
            raise typer.Exit(130) from error
        except Exception as error:
            code = exit_code(error)
            if code is None and launch.processes() == 1:
                raise
            full = code is None or settings["debug"]
            _report(traceback.format_exc() if full else f"error: {message(error)}")
            raise typer.Exit(code or 1) from error

    return guarded


def _in_processes(number: int, words: Sequence[str], device: str | None) -> int:
    """Run the command in several processes; return its exit code."""
    from freqkd_cli.runtime import launcher

    launcher.check(number, device)
    return launcher.start(number, words)


def _report(text: str) -> None:
    """Write an error to stderr; one of several processes puts its rank before it.

    Of the processes of ``--nproc``, the one that started them shows one error for all.
    """
    if (file := launch.error_file()) is not None:
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        return
    if launch.processes() == 1:
        streams.print_error(text)
        return
    streams.print_error(f"[rank {launch.rank()}] {text}", original=True)


def exit_code(error: Exception) -> int | None:
    """Return the exit code of an error that a user can cause; None for a bug."""
    if isinstance(error, FreqKDError):
        return error.exit_code
    if isinstance(error, OSError) and error.errno in USER_OS_ERRORS:
        return 1
    return 1 if out_of_memory(error) else None


def message(error: Exception) -> str:
    """Return the one message of an error that a user can cause."""
    if isinstance(error, FreqKDError):
        return str(error)
    if out_of_memory(error):
        lines = str(error).splitlines()
        details = {"got": lines[0]} if lines else {}
        tip = "smaller images or batches: data.size, train.batch_size with train.accumulate"
        return str(FreqKDError("not enough memory", **details, tip=tip))
    if isinstance(error, OSError):
        where = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        )
        return f"{where}{error.strerror}"
    return str(error)
