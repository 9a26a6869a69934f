"""The JSON schemas of a study and of students compared, and a small validator that knows the words they use."""

import ast
import inspect
import json
from itertools import pairwise
from typing import Any

import autodistill.records
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


def schema_of(model: type[Record]) -> str:
    """The models' schema with the fields' own docstrings, which pydantic leaves out."""
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    version = schema["properties"]["schema_version"]
    version |= {"minimum": 1, "maximum": SCHEMA_VERSION}
    for name, definition in {model.__name__: schema, **schema["$defs"]}.items():
        for field, text in _field_docstrings(getattr(autodistill.records, name)).items():
            definition["properties"][field]["description"] = text
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def _field_docstrings(model: type[Record]) -> dict[str, str]:
    """What the strings below the fields of a model and of its bases say."""
    found = {}
    for owner in reversed(model.__mro__[: model.__mro__.index(Record)]):
        (tree,) = ast.parse(inspect.getsource(owner)).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[ast.unparse(field.target)] = " ".join(ast.literal_eval(below.value).split())
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
