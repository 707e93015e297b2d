"""Numbers of bytes as text."""

from __future__ import annotations

import pytest

from freqkd_cli.runtime.byte_sizes import size


@pytest.mark.parametrize(
    "count, text",
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (4_790_000, "4.6 MiB"),
        (12_300, "12.0 KiB"),
        (3_210_000_000, "3.0 GiB"),
    ],
)
def test_size(count, text):
    assert size(count) == text
