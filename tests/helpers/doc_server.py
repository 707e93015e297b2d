"""A ``freqkd`` for the blocks of docs: small settings, and torch imported only once.

``python doc_server.py SOCKET`` imports the heavy rooms, then runs each command line that the script
``freqkd`` of :data:`CLIENT` sends, in a forked process with the caller's folder and streams.
Recipes are replaced by small copies, see :func:`small_recipe`. The result of each command is also
written as JSON to ``.results/COMMAND.json`` in the caller's folder.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import socket
import sys
from pathlib import Path

ROOMS = ("train", "teacher", "score", "spectrum", "export", "bench", "report")
"""Their files are imported before the first command."""

CLIENT = """\
#!{python} -IS
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({socket!r})
request = json.dumps({{"words": sys.argv[1:], "folder": os.getcwd()}}).encode()
socket.send_fds(connection, [request], [0, 1, 2])
sys.exit(int(connection.recv(16)))
"""
"""The script that stands for ``freqkd`` on the PATH of a block."""

RECIPE_COMMANDS = ("distill", "teacher-dump", "eval", "spectrum", "bench", "data")
JSON_COMMANDS = ("teacher-dump", "distill", "eval", "spectrum", "export")


def small_recipe(word: str) -> str:
    """Return the path of a copy of a recipe with few small images and one epoch."""
    from freqkd_cli import recipe as recipes
    from freqkd_cli.recipe.data_section import Augment

    loaded = recipes.load(word, parts=False)
    size = (min(loaded.data.size[0], 192), min(loaded.data.size[1], 256))
    changes = {"workers": 0, "size": size, "views": 2 if loaded.data.views else 0}
    changes["augment"] = Augment(scale=(1.0, 1.0))
    if loaded.data.name == "scenes":
        changes["arguments"] = {"length": 8, "held_out": 2}
    length = {"epochs": 1, "steps": None, "batch_size": 2, "precision": "float32"}
    small = loaded.__class__(
        data=loaded.data.model_copy(update=changes),
        teacher=loaded.teacher,
        student=loaded.student,
        losses=loaded.losses,
        train=loaded.train.model_copy(update=length),
    )
    path = Path(".small", f"{Path(word).stem}.yaml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(recipes.dump(small), encoding="utf-8")
    return str(path)


def with_small_recipes(words: list[str]) -> list[str]:
    """Replace each word that names a recipe; runs and caches keep theirs."""
    from freqkd_cli.recipe.shipped import paths

    if words[:1] and words[0] in RECIPE_COMMANDS:
        known = paths()
        return [
            small_recipe(word) if word in known or word.endswith(".yaml") else word
            for word in words
        ]
    return words


def run(words: list[str]) -> int:
    """Run a command line in this process and return its exit code."""
    from freqkd_cli.app import main

    words = with_small_recipes(words)
    record = words[:1] and words[0] in JSON_COMMANDS and "--dry-run" not in words
    output = io.StringIO() if record else sys.stdout
    code = 0
    try:
        with contextlib.redirect_stdout(output):
            main([*words, "--json"] if record and "--json" not in words else words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    if record:
        Path(".results").mkdir(exist_ok=True)
        Path(".results", f"{words[0]}.json").write_text(output.getvalue(), encoding="utf-8")
        sys.stdout.write(output.getvalue())
    sys.stdout.flush()
    return code


def handle(connection: socket.socket, request: dict, streams: list[int]) -> None:
    """Run one request in a forked process and send back its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(request["folder"])
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)
            code = run(request["words"])
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def serve(path: str) -> None:
    """Answer requests until the parent process ends this one."""
    for room in ROOMS:
        package = importlib.import_module(f"freqkd_cli.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    while True:
        connection, _ = server.accept()
        data, streams, *_ = socket.recv_fds(connection, 1 << 16, 3)
        if os.fork() == 0:  # so that commands of a pipe run side by side
            handle(connection, json.loads(data), streams)
            os._exit(0)
        for stream in streams:
            os.close(stream)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    serve(sys.argv[1])
