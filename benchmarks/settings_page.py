"""Every setting of the config as a page, `docs/config.md`, told by the settings' own code. `make readme` writes it."""

import ast
import inspect
import json
import textwrap
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from benchmarks.markdown import table
from deployments.settings import VisionTuning
from serve_app.settings import AppArgs

_HEAD = """\
# Settings

What `args` of the app in `serve_config.yaml` may say, and the `user_config` of a model's deployment, which may change
while replicas run. What is left out has its default; where the text says None, YAML says `null`. All the rest of the
file (replicas, CPUs and GPUs of a deployment, scaling, the address) is Ray Serve's; `cluster/README.md` says what to
change first. `python -m cluster.lint FILE` checks a config without starting anything.

`make readme` writes this page from the code.
"""
_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_COUNTS = {
    "minItems": "at least",
    "maxItems": "at most",
    "minProperties": "at least",
    "minLength": "length at least",
}
_WORDS = {"string": "text", "integer": "integer", "number": "number", "boolean": "`true` or `false`", "null": "`null`"}
Titles = dict[type[BaseModel], str]


def settings_page() -> str:
    """Return the page. Raises ValueError where a setting has no docstring."""
    titles: Titles = {}
    _find(AppArgs, "args", "", titles)
    _find(VisionTuning, "user_config", " of `vision-NAME`", titles)
    return "\n".join([_HEAD, *(_section(model, titles) for model in titles)])


def _find(model: type[BaseModel], path: str, more: str, titles: Titles) -> None:
    """Put the model and those within it into `titles`, each once, in the order of a config."""
    titles[model] = f"`{path}`{more}"
    for name, field in model.model_fields.items():
        within = _models(field.annotation)
        kind = get_origin(field.annotation)
        below = ".NAME" if kind is dict else "[]" if kind is tuple else ""
        for one in within:
            if one not in titles:
                which = f" with `provider: {_provider(one)}`" if len(within) > 1 else ""
                _find(one, f"{path}.{name}{below}", which, titles)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _provider(model: type[BaseModel]) -> str:
    [name] = get_args(model.model_fields["provider"].annotation)
    return str(name)


def _section(model: type[BaseModel], titles: Titles) -> str:
    schema, said = model.model_json_schema(), _docstrings(model)
    links = {one.__name__: f"[{title}](#{_anchor(title)})" for one, title in titles.items()}
    rows = []
    for name, field in model.model_fields.items():
        setting = schema["properties"][name]
        within = _models(field.annotation)
        text = said.get(name) or (_cleaned(within[0].__doc__) if len(within) == 1 else "")
        if not text and setting.get("const") is None:
            raise ValueError(f"every setting must have a docstring, got none for {model.__name__}.{name}")
        bounds = ", ".join(dict.fromkeys(_bounds(setting)))
        rows.append([f"`{name}`", _type(setting, links), _default(setting), bounds, text.partition("\n\n")[0]])
    settings = table(["setting", "type", "default", "bounds", ""], rows)
    return f"## {titles[model]}\n\n{_cleaned(model.__doc__)}\n\n{settings}\n"


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the string below each field, which Python itself forgets."""
    [of_class] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(of_class, ast.ClassDef)
    found = {}
    for field, below in zip(of_class.body, of_class.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = _cleaned(text)
    return found


def _cleaned(docstring: str | None) -> str:
    """Return it with a line for each paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(docstring or "").split("\n\n"))


def _anchor(title: str) -> str:
    """Return what a heading is linked by: small letters, digits, dashes and what stands for spaces."""
    return "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")


def _type(setting: dict[str, Any], links: dict[str, str]) -> str:
    match setting:
        case {"$ref": str(name)}:
            return links[name.rpartition("/")[2]]
        case {"anyOf": ways} | {"oneOf": ways}:
            return " or ".join(_type(way, links) for way in ways)
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"items": item}:
            return f"list of {_type(item, links)}"
        case {"patternProperties": named}:
            [item] = named.values()
            return f"by name: {_type(item, links)}"
    return _WORDS[setting["type"]]


def _bounds(setting: dict[str, Any]) -> list[str]:
    found = [f"{sign} {_number(setting[key])}" for key, sign in _SIGNS.items() if key in setting]
    found += [f"{word} {setting[key]}" for key, word in _COUNTS.items() if key in setting]
    found += [f"as `{setting['pattern']}`"] if "pattern" in setting else []
    found += [f"names as `{pattern}`" for pattern in setting.get("patternProperties", ())]
    for inner in [*setting.get("anyOf", ()), *([setting["items"]] if "items" in setting else [])]:
        found += _bounds(inner)
    return found


def _default(setting: dict[str, Any]) -> str:
    if "default" not in setting:
        return "must be said"
    value = setting["default"]
    if isinstance(value, dict) and any("$ref" in one for one in (setting, *setting.get("anyOf", ()))):
        return "its defaults"
    return f"`{_number(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)}`"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
