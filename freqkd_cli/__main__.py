"""``python -m freqkd_cli``: what torchrun and accelerate launch."""

from __future__ import annotations

from freqkd_cli.app import main

if __name__ == "__main__":
    main()
