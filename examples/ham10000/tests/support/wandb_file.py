"""Read what a run of Weights & Biases has recorded offline.

The file is a log in the format of LevelDB, in blocks of 32 KB after a header of 7 bytes, of records
in wandb's own protocol buffers. wandb itself only uploads it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _FRAME = 32768, 7, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read_records(folder: Path) -> list[Any]:
    """Return the records of the only offline run in a folder `wandb`."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("offline-run-*/run-*.wandb")
    return [Record.FromString(raw) for raw in _records(path.read_bytes())]


def history(records: list[Any]) -> list[dict[str, Any]]:
    """Return what was logged in each step."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row}
        for row in (r.history.item for r in records if r.WhichOneof("record_type") == "history")
    ]


def config(records: list[Any]) -> dict[str, Any]:
    """Return the configuration of the run."""
    found: dict[str, Any] = {}
    for record in records:
        kind = record.WhichOneof("record_type")
        if kind in ("run", "config"):
            part = record.run.config if kind == "run" else record.config
            found |= {item.key: json.loads(item.value_json) for item in part.update if item.key}
    return found


def _records(raw: bytes) -> Iterator[bytes]:
    assert raw[:4] == b":W&B"
    place, whole = _HEADER, b""
    while place + _FRAME <= len(raw):
        if _BLOCK - place % _BLOCK < _FRAME:  # the rest of a block is padding
            place += _BLOCK - place % _BLOCK
            continue
        length, kind = int.from_bytes(raw[place + 4 : place + 6], "little"), raw[place + 6]
        part = raw[place + _FRAME : place + _FRAME + length]
        place += _FRAME + length
        whole = part if kind in (_FULL, _FIRST) else whole + part
        if kind in (_FULL, _LAST):
            yield whole
