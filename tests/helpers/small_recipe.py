"""A recipe whose whole chain of commands runs in seconds."""

from __future__ import annotations

SMALL = """version: 1
data: {name: scenes, size: [64, 64], length: 8, held_out: 4, views: 1, workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {name: logit_kl}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4}
train: {epochs: 1, batch_size: 4}
"""
