"""The base of all records: frozen, closed, plain data."""

import json

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Frozen, and closed: an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


def to_json(record: Record) -> str:
    """Render a record as JSON with sorted keys and a final newline."""
    return json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
