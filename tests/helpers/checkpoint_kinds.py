"""Checkpoints with a name: folders of libraries, and files with two sets of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checkpoint_files import (
    SMP_FOLDERS,
    OneRow,
    config_with,
    freqkd_folder,
    labels_as,
    mmsegmentation,
    pretrained,
    sharded_pickle,
    smp_folder,
    trainer,
    two_prefixes,
    two_tables,
    without_config,
    without_names,
    write_table,
)
from checkpoint_forms import CheckpointForm, cast, with_state
from foreign_checkpoints import refused_forms
from small_models import (
    NAMES,
    SECTIONS,
    MMSegmentationHead,
    authors_state,
    network,
    shared,
)


def named_forms() -> list[CheckpointForm]:
    """Return every form that is not drawn at random, numbered from 0."""
    rows = [*_transformers(), *_libraries(), *_copies(), *refused_forms()]
    return [CheckpointForm(number, **row) for number, row in enumerate(rows)]


def _transformers() -> list[dict[str, Any]]:
    def row(name: str, write: Callable[[Path], Path], **more: Any) -> dict[str, Any]:
        known = {"truth": lambda: shared("segformer"), "section": "name: segformer", "folder": True}
        return {"name": name, "model": "segformer", "write": write} | known | more

    one = {f"{k + 1}": name for k, name in enumerate(NAMES)}
    gap = {f"{7 * k}": name for k, name in enumerate(NAMES)}
    zero = {f"{k}": name for k, name in enumerate(NAMES)}
    half = with_state("segformer", cast(shared("segformer").state_dict(), "float16"))
    single = network("segformer", classes=1)

    def saved_half(folder: Path) -> Path:
        network("segformer").half().save_pretrained(folder / "hf")
        return folder / "hf"

    def saved_single(folder: Path) -> Path:
        single.save_pretrained(folder / "hf")
        return folder / "hf"

    return [
        row("save_pretrained", pretrained),
        row("shards", lambda folder: pretrained(folder, max_shard_size="60KB")),
        row("pickled shards", sharded_pickle),
        row("float16", saved_half, truth=lambda: half),
        row("id2label from 1", config_with(labels_as(one))),
        row("id2label with gaps", config_with(labels_as(gap))),
        row("id2label as a list", config_with(labels_as(list(NAMES)))),
        row(
            "id2label with more names",
            config_with(labels_as({**zero, "3": "sky"})),
            refused="id2label|4|class",
        ),
        row("no id2label", config_with(without_names)),
        row("id2label null", config_with(labels_as(None, label2id=None, num_labels=3))),
        row(
            "model_type is the class",
            config_with(lambda c: c.update(model_type="SegformerForSemanticSegmentation")),
        ),
        row(
            "config with unknown keys",
            config_with(lambda c: c.update(_attn_implementation_autoset=True, use_cache=False)),
        ),
        row(
            "no config",
            lambda folder: without_config(folder),
            section=SECTIONS["segformer"],
            folder=False,
        ),
        row("trainer, one checkpoint", trainer(500)),
        row(
            "trainer, best checkpoint named",
            trainer(500, 1000, best=500),
            noted=(("checkpoint-1000", lambda: shared("segformer", 1)),),
        ),
        row(
            "trainer, two checkpoints",
            trainer(500, 1000),
            truth=None,
            noted=(
                ("checkpoint-500", lambda: shared("segformer")),
                ("checkpoint-1000", lambda: shared("segformer", 1)),
            ),
            refused="checkpoint-1000",
        ),
        row("one row", saved_single, truth=lambda: OneRow(single), one_row=True),
        row(
            "authors' names",
            lambda f: write_table(f, {"state_dict": authors_state(shared("segformer"))}),
            section=SECTIONS["segformer"],
            folder=False,
        ),
        row(
            "mmsegmentation's names",
            mmsegmentation,
            truth=lambda: MMSegmentationHead(shared("segformer").segformer),
            section=SECTIONS["segformer"],
            folder=False,
            refused="mmseg",
        ),
    ]


def _libraries() -> list[dict[str, Any]]:
    rows = []
    for name, (arch, options) in SMP_FOLDERS.items():
        rows.append(
            {
                "name": f"save_pretrained, {name}",
                "model": arch,
                "write": smp_folder(arch, options),
                "truth": lambda arch=arch, options=options: network(arch, **options),
                "section": "name: smp",
                "folder": True,
            }
        )
    rows.append(
        {
            "name": "save_pretrained, one row",
            "model": "unet",
            "write": smp_folder("unet", {}, classes=1),
            "truth": lambda: OneRow(network("unet", classes=1)),
            "section": "name: smp",
            "folder": True,
            "one_row": True,
        }
    )
    rows.append(
        {
            "name": "file of one row",
            "model": "fpn",
            "write": lambda f: write_table(f, network("fpn", classes=1).state_dict()),
            "truth": lambda: OneRow(network("fpn", classes=1)),
            "one_row": True,
        }
    )
    rows.append(
        {
            "name": "save_pretrained, grey images",
            "model": "unet",
            "write": smp_folder("unet", {"in_channels": 1}),
            "section": "name: smp",
            "refused": "channel|in_channels",
        }
    )
    fast = {"model": "fast_scnn", "truth": lambda: shared("fast_scnn")}
    rows.append({"name": "freqkd's folder", "write": freqkd_folder, "folder": True, **fast})
    rows.append(
        {
            "name": "freqkd's folder in float16",
            "model": "fast_scnn",
            "write": lambda folder: freqkd_folder(folder, dtype=torch.float16),
            "truth": lambda: with_state(
                "fast_scnn", cast(shared("fast_scnn").state_dict(), "float16")
            ),
            "folder": True,
        }
    )
    return rows


def _copies() -> list[dict[str, Any]]:
    """Two sets of weights in one file: averaged ones come first, or a message names both."""
    raw, averaged = (lambda: shared("fpn")), (lambda: shared("fpn", 1))

    def row(write: Callable[[Path], Path], first: str, second: str, **more: Any) -> dict[str, Any]:
        known = {"name": f"{first} and {second}", "model": "fpn", "write": write}
        noted = {"truth": averaged, "noted": ((second, raw),), "refused": second}
        return known | noted | more

    def tables(first: str, second: str, **more: Any) -> dict[str, Any]:
        return row(two_tables(first, second), first, second, **more)

    def prefixes(first: str, second: str, **more: Any) -> dict[str, Any]:
        write = two_prefixes(f"{first}.", f"{second}.")
        return row(write, first, second, **more) | {"name": f"prefixes {first} and {second}"}

    both = {"truth": None, "noted": (("student", raw), ("teacher", averaged))}
    return [
        tables("model", "ema"),
        tables("state_dict", "ema_state_dict"),
        tables("model", "model_ema"),
        tables("state_dict", "state_dict_ema"),
        prefixes("model", "ema_model"),
        prefixes("net", "ema.module"),
        prefixes("student", "teacher", **both),
        tables("student", "teacher", **both),
    ]
