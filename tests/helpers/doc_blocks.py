"""The fenced code blocks of README and docs, and the ``freqkd`` commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
    if path.is_file()
]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)[^\n]*$")
MARK = re.compile(r"^ *<!-- *(?P<mark>.+?) *-->$")
SHELLS = ("sh", "bash", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        mark: the text of an HTML comment on the line before it, for example ``run: chain``.
        line: the number of its opening fence.
    """

    file: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"

    @property
    def group(self) -> str:
        """The name in ``run: NAME``; blocks of one name share a folder and run in order."""
        return self.mark.removeprefix("run:").strip() if self.mark.startswith("run:") else ""


def read_blocks(file: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown file in order."""
    blocks: list[Block] = []
    opened: tuple[int, str, str] | None = None
    lines = file.read_text(encoding="utf-8").splitlines()
    body: list[str] = []
    for number, line in enumerate(lines, start=1):
        fence = FENCE.match(line)
        if fence and opened is None:
            before = MARK.match(lines[number - 2]) if number > 1 else None
            opened, body = (number, fence["language"], before["mark"] if before else ""), []
        elif fence:
            start, language, mark = opened
            blocks.append(Block(file, start, language, mark, "\n".join(body) + "\n"))
            opened = None
        elif opened is not None:
            body.append(line)
    assert opened is None, f"{file}:{opened}: the block has no end"
    return blocks


BLOCKS = [block for file in FILES for block in read_blocks(file)]

INLINE = re.compile(r"`(freqkd [^`]+)`")


def inline_commands(file: Path) -> Iterator[str]:
    """Yield the commands in backticks outside of fenced blocks; they may lack arguments."""
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", file.read_text(encoding="utf-8"))
    for match in INLINE.finditer(text):
        command = " ".join(match[1].split())
        if not re.search(r"[|…]|\.\.\.", command):
            yield command


OPERATORS = frozenset(";&|()")
REDIRECTIONS = frozenset("<>&")


def simple_commands(script: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of a shell script, without redirections."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        skip = False
        for token in lexer:
            if skip:
                skip = False
            elif set(token) <= OPERATORS:
                yield words
                words = []
            elif set(token) <= REDIRECTIONS:
                skip = True
                words = words[:-1] if words and words[-1].isdecimal() else words
            else:
                words.append(token)
        yield words


def program_words(script: str, program: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of ``program``, also of ``python -m freqkd_cli``.

    Calls inside a quoted word count too, such as those that a loop writes to a file.
    """
    for words in simple_commands(script):
        for number, word in enumerate(words):
            module = word == "freqkd_cli" and number and words[number - 1] == "-m"
            if word == program or (module and program == "freqkd"):
                yield words[number + 1 :]
                break
            if word.startswith(f"{program} "):
                yield from program_words(word, program)
