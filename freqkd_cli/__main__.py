"""``python -m freqkd_cli``: the entry point for torchrun and accelerate."""

from __future__ import annotations

from freqkd_cli.app import main

if __name__ == "__main__":
    main()
