"""Records as the truth hands them out to who reads everything."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

COLUMNS = pa.schema(
    {
        name: pa.string()
        for name in ("_id", "user_id", "event", "campaign_id", "channel", "text_hash", "conversation_id", "intent")
    }
    | {"timestamp": pa.timestamp("ms"), "characters": pa.int64()}
)


def table_of(records: Iterable[Mapping[str, Any]], *, words: bool = False) -> pa.Table:
    """In columns (see `Records.replayable`)."""
    columns = COLUMNS.append(pa.field("message", pa.string())) if words else COLUMNS
    return pa.Table.from_pylist([dict(record) for record in records], schema=columns)
