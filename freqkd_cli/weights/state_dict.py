"""Reading weights: safetensors first, pickles only as plain tensors, and no key left over on either side."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from freqkd_cli.errors import WeightsMissing

log = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_SHOWN = 4
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
_NESTED = ("state_dict", "model_ema", "model")
"""Where training frameworks put the weights of a checkpoint, the averaged ones first: published results are theirs."""
_BESIDE = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *(f"numpy.{name}" for name in ("ndarray", "dtype", "dtypes.Float64DType", "dtypes.Int64DType")),
)
"""What frameworks put beside the weights and tensors are not made of; read as nothing."""


def load_exact(
    module: nn.Module, state: Mapping[str, Tensor], *, where: str, ignore: Collection[str] = ()
) -> None:
    """Load ``state`` into ``module``, which must want exactly these keys. Other float types are cast to the module's own.

    Args:
        where: the file or folder, for the message.
        ignore: keys that may be absent from ``state`` (and are skipped in it): they keep what the module holds.

    Raises:
        WeightsMissing: lists missing, unexpected and mis-shaped keys; nothing has been loaded then.
    """
    wanted = {key: value for key, value in module.state_dict().items() if key not in ignore}
    given = {key: value for key, value in state.items() if key not in ignore}
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    other = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    if missing or unexpected or other:
        said = [
            _count("missing", missing),
            _count("unexpected", unexpected),
            _count("of another shape", other),
        ]
        raise WeightsMissing(
            f"{where} does not fit the model",
            got="; ".join(text for text in said if text),
            need=f"exactly the {len(wanted)} tensors of the model",
            tip="give the arguments (variant, width, encoder, classes...) that the weights were made with",
        )
    module.load_state_dict(given, strict=not ignore)


def _count(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = ", ..." if len(keys) > _SHOWN else ""
    return f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{more})"


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file, or of a folder that holds ``model.safetensors`` or ``pytorch_model.bin``.

    Raises:
        WeightsMissing: there is no such file, or it cannot be read as tensors alone.
    """
    if path.is_dir():
        here = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if not here:
            raise WeightsMissing(f"{path} holds no weights", need=" or ".join(WEIGHT_FILES))
        path = here[0]
    if not path.is_file():
        raise WeightsMissing(
            f"{path} is not there", need="a weight file or a folder with model.safetensors"
        )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _bare(load_file(path))
        except (SafetensorError, OSError) as error:
            raise WeightsMissing(
                f"{path} cannot be read", got=error, tip="fetch or write it again"
            ) from error
    return _read_pickle(path)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    # Names of classes become these harmless ones while the file is read; nothing in it is imported or called.
    harmless = [(OrderedDict, "yacs.config.CfgNode"), *((_Nothing, name) for name in _BESIDE)]
    try:
        with torch.serialization.safe_globals(harmless):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # nothing in the file is run; what the reader raises on a damaged one depends on the byte
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsMissing(
            f"{path} cannot be read as tensors alone", got=said, need="a file without pickled code"
        ) from error
    nested = [key for key in _NESTED if isinstance(held, dict) and isinstance(held.get(key), dict)]
    if nested:
        log.debug("%s: the weights are its %s", path, nested[0])
        held = held[nested[0]]
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise WeightsMissing(f"{path} holds no table of tensors", got=type(held).__name__)
    return _bare(dict(held))


class _Nothing:
    """Stands in for whatever a file holds beside its tensors."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the word that a wrapper (many GPUs, a compiler, a training framework) put before every key."""
    for word in _WRAPPERS:
        if state and all(key.startswith(word) for key in state):
            return _bare({key.removeprefix(word): value for key, value in state.items()})
    return state


def is_hub_id(name: str) -> bool:
    """``owner/name`` that is not a path on this machine."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name)) and not Path(name).exists()


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """The hub library tells of every attempt; one message at the end is enough."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def hub_file(repository: str, names: Collection[str], *, offline: bool = False) -> Path:
    """The first of ``names`` that the hub repository has, downloaded (unless ``offline``) or from the local hub cache.

    Raises:
        WeightsMissing: the hub has none of them, or cannot be reached and nothing is cached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    trouble: Exception | None = None
    for name in names:
        try:
            with _quiet_hub():
                return Path(hf_hub_download(repository, name, local_files_only=offline))
        except (
            LocalEntryNotFoundError
        ) as error:  # a kind of EntryNotFoundError, but it means: no connection
            trouble = error
        except EntryNotFoundError as error:
            trouble = trouble or error
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
            trouble = error
            break
    raise WeightsMissing(
        f"{repository} is no folder here and could not be fetched from the hub",
        got=str(trouble).splitlines()[0] if str(trouble) else type(trouble).__name__,
        need=f"{' or '.join(names)} in that repository, and a connection or a filled hub cache",
        tip="download it where there is a connection and give the folder as weights",
    ) from trouble
