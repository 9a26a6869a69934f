"""The JSON schemas of a study and of students compared, and a small validator that knows the words they use."""

import ast
import json
from pathlib import Path
from typing import Any

from autodistill.records import SCHEMA_VERSION, ComparisonRecord, Record, StudyRecord

KNOWN = {"additionalProperties", "anyOf", "const", "default", "description", "enum", "items", "maxItems", "maximum"}
KNOWN |= {
    "propertyNames",
    "minItems",
    "minimum",
    "prefixItems",
    "properties",
    "required",
    "title",
    "type",
    "$defs",
    "$ref",
    "$schema",
}
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


SCHEMAS: dict[str, type[Record]] = {"study": StudyRecord, "comparison": ComparisonRecord}


def schema_of(model: type[Record], records: Path) -> str:
    """The models' schema with the fields' own docstrings, which pydantic leaves out; `records` is their folder."""
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    version = schema["properties"]["schema_version"]
    version |= {"minimum": 1, "maximum": SCHEMA_VERSION}
    models = {model.__name__: schema, **schema["$defs"]}
    for name, field, text in _field_docstrings(records):
        if name in models:
            models[name]["properties"][field]["description"] = text
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def _field_docstrings(records: Path) -> list[tuple[str, str, str]]:
    """Class, field and what the string below it says."""
    found = []
    for path in sorted(records.glob("*.py")):
        classes = (one for one in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(one, ast.ClassDef))
        for owner in classes:
            for field, below in zip(owner.body, owner.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    text = " ".join(ast.literal_eval(below.value).split())
                    found.append((owner.name, ast.unparse(field.target), text))
    return found


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "") -> list[str]:
    """Where a JSON value breaks a schema."""
    assert set(schema) <= KNOWN
    if "$ref" in schema:
        return faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "anyOf" in schema:
        every = [faults(value, one, root, at) for one in schema["anyOf"]]
        return [] if [] in every else every[0]
    if "enum" in schema or "const" in schema:
        return [] if value in schema.get("enum", [schema.get("const")]) else [f"{at}: {value!r}"]
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (kind != "boolean" and isinstance(value, bool))):
        return [f"{at}: no {kind}"]
    if kind == "object":
        return _object_faults(value, schema, root, at)
    if kind == "array":
        return _array_faults(value, schema, root, at)
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return [f"{at}: {value}"]
    return []


def _object_faults(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str) -> list[str]:
    found = [f"{at}.{name}: missing" for name in schema.get("required", []) if name not in value]
    rest = schema.get("additionalProperties", True)
    for name, one in value.items():
        inner = schema.get("properties", {}).get(name, rest)
        if inner is False:
            found.append(f"{at}.{name}: unknown")
        elif inner is not True:
            found += faults(one, inner, root, f"{at}.{name}")
    return found


def _array_faults(value: list[Any], schema: dict[str, Any], root: dict[str, Any], at: str) -> list[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return [f"{at}: {len(value)} items"]
    kinds = schema.get("prefixItems", []) + [schema.get("items", {})] * len(value)
    return [fault for place, one in enumerate(value) for fault in faults(one, kinds[place], root, f"{at}[{place}]")]
