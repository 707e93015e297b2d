"""How the differences of two fingerprints are listed."""

from __future__ import annotations

from freqkd_cli.cache.fingerprint import Fingerprint


def test_a_loss_that_a_cache_lacks_is_one_line():
    kl = {"name": "logit_kl", "arguments": {"grid": "teacher", "attention": None}}
    high = {"name": "band", "arguments": {"band": "high", "cutoff": 0.25, "cutoff_cycles": None}}
    cached = Fingerprint({"content": "targets", "targets": {"kl": kl}})
    wanted = Fingerprint({"content": "targets", "targets": {"kl": kl, "high": high}})
    lines = [difference.line() for difference in cached.differences(wanted)]
    assert lines == ['targets.high: cached nothing, wanted "band"']
    assert wanted.differences(cached) == []
