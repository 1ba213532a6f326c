"""The reference pages of the site, generated from the code that they describe."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import click
import repzoo.errors
from docstrings import plain, table, with_code
from pydantic import BaseModel
from repzoo import cli
from repzoo.packages.config import ModelConfig
from repzoo_serving import configuration, settings
from repzoo_serving.settings import SECTIONS, Limits, Settings
from repzoo_serving.wire import openapi
from repzoo_training.recipes.recipe import Recipe
from repzoo_training.recipes.registry import list_recipes

__all__ = ["pages"]

_WIDTH = 88


def pages() -> Mapping[str, str]:
    """Return the Markdown of every reference page, by its path in the documentation."""
    return {
        "reference/cli.md": _cli(),
        "reference/http.md": _http(),
        "reference/settings.md": _settings(),
        "reference/recipes.md": _recipes(),
        "reference/package-format.md": _package_format(),
        "reference/errors.md": _errors(),
        "reference/repzoo.md": _python("repzoo", "Python: `repzoo`")
        + "\n::: repzoo.sklearn.Embedder\n",
        "reference/client.md": _python("repzoo_client", "Python: `repzoo_client`")
        + "\n::: repzoo_client.retrieval.PosteriorIndex\n",
        "reference/training.md": _training(),
    }


def _cli() -> str:
    """Every command with its help, as the terminal prints it."""
    out = ["# The `zoo` command", "", with_code(cli.__doc__)]
    for path, command in _commands(cli.zoo, ("zoo",)):
        with click.Context(command, info_name=" ".join(path), terminal_width=_WIDTH) as context:
            text = command.get_help(context)
        out += [f"{'#' * len(path)} `{' '.join(path)}`", "", f"```text\n{text}\n```", ""]
    return "\n".join(out)


def _commands(
    group: click.Group, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        found = cli.import_command(name) if group is cli.zoo else command
        yield (*path, name), found
        if isinstance(found, click.Group):
            yield from _commands(found, (*path, name))


def _http() -> str:
    """The operations of the OpenAPI document of a server with default limits."""
    document = openapi.document(Limits())
    out = ["# HTTP API", "", document["info"]["description"], ""]
    out += [
        "A server has this document at `/openapi.json`, and a form for each operation at `/docs`.",
        "",
    ]
    titles = {tag["name"]: tag["description"] for tag in document["tags"]}
    for tag, description in titles.items():
        out += [f"## {description.rstrip('.')}", ""]
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag in operation.get("tags", ()):
                    out += _operation(method, path, operation, document)
    return "\n".join(out)


def _operation(method: str, path: str, operation: Mapping[str, Any], document: Any) -> list[str]:
    out = [f"### `{method.upper()} {path}`", "", operation.get("summary", "") + ".", ""]
    if description := operation.get("description"):
        out += [description, ""]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        schemas = body["schema"].get("anyOf", [body["schema"]])
        for number, schema in enumerate(schemas, start=1):
            title = "Request" if len(schemas) == 1 else f"Request, form {number}"
            out += _members(title, _deref(schema, document), document)
    good = _deref(operation["responses"].get("200", {}), document)
    answer = good.get("content", {}).get("application/json")
    if answer:
        out += _members("Response", _deref(answer["schema"], document), document)
    statuses = ", ".join(s for s in operation["responses"] if s != "200")
    if statuses:
        out += [f"Errors: {statuses}; see [errors](http-errors.md).", ""]
    return out


def _members(title: str, schema: Mapping[str, Any], document: Any) -> list[str]:
    properties = schema.get("properties")
    if not properties:
        return []
    needed = schema.get("required", ())
    rows = [
        (
            f"`{name}`" + (" (required)" if title != "Response" and name in needed else ""),
            _type(member, document),
            _cell(_deref(member, document).get("description", "")),
        )
        for name, member in properties.items()
    ]
    return [f"**{title}**", "", *table(("member", "type", "meaning"), rows), ""]


def _deref(schema: Mapping[str, Any], document: Any) -> Mapping[str, Any]:
    while "$ref" in schema:
        found = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def _type(schema: Mapping[str, Any], document: Any) -> str:
    """Describe a JSON schema in a few words."""
    if "$ref" in schema:
        return _type(_deref(schema, document), document)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(each, document) for each in schema[key]))
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    kind = schema.get("type", "any")
    if kind == "array" and "items" in schema:
        return f"array of {_type(schema['items'], document)}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _settings() -> str:
    """All server settings, and where they come from."""
    out = ["# Server settings", "", with_code(configuration.__doc__), ""]
    for title, names in SECTIONS.items():
        rows = []
        for name in names:
            field = Settings.model_fields[name]
            default = "" if field.default in (None, ()) else f"`{json.dumps(field.default)}`"
            places = f"`{name}`, `{configuration.flag(name)}`, `{configuration.variable(name)}`"
            rows.append((places, _cell(field.description or ""), default))
        out += [f"## {title}", "", *table(("key, flag, variable", "meaning", "default"), rows), ""]
    return "\n".join([*out, plain(settings.__doc__).partition("\n\n")[2], ""])


def _recipes() -> str:
    """Every key of a recipe, and the built-in recipes."""
    out = ["# Recipes", "", plain(Recipe.__doc__), ""]
    out += ["`zoo train RECIPE --set KEY=VALUE` overrides a key.", "", "## Keys", ""]
    out += table(("key", "meaning", "type", "default"), _fields(Recipe.model_json_schema()))
    for name in ("NetworkSpec", "ViewSpec", "LikelihoodSpec"):
        schema = Recipe.model_json_schema()["$defs"][name]
        out += ["", f"## `{name}`", "", plain(schema.get("description", "")), ""]
        out += table(("key", "meaning", "type", "default"), _fields(schema, Recipe))
    out += ["", "## Built-in recipes", ""]
    rows = [(f"`{r.name}`", r.method, str(r.latent_dim), r.summary) for r in list_recipes()]
    out += table(("recipe", "method", "D", "summary"), rows)
    return "\n".join(out) + "\n"


def _package_format() -> str:
    """The record of a package, field by field."""
    schema = ModelConfig.model_json_schema()
    out = ["# Package format", "", "A package is a folder of these files:", ""]
    out += table(
        ("file", "content"),
        [
            ("`README.md`", "the model card, with metadata that the Hugging Face Hub reads"),
            ("`config.json`", "the record below"),
            ("`manifest.json`", "the sha256 and size of every other file"),
            ("`encoder.onnx`", "uint8 images `[N, H, W, C]` to embedding and log variance"),
            ("`decoder.onnx`", "latents to images; optional"),
            ("`uncertainty.onnx`", "the calibrated uncertainty; optional"),
            ("`content.onnx`", "the content posterior; optional, format 2"),
            ("`prior.npz`", "the mixture from which samples are drawn; optional"),
            ("`probes/`", "classifiers on the embedding; optional"),
            ("`golden.npz`", "images and outputs that `zoo verify` compares"),
            ("`metrics.json`", "all measurements and the training record"),
            ("`figures/`", "the card's pictures"),
            ("`signature.json`", "a signature of the manifest, on hubs only; optional"),
        ],
    )
    out += ["", "## `config.json`", "", plain(ModelConfig.__doc__), ""]
    out += table(("field", "meaning", "type", "default"), _fields(schema, ModelConfig))
    for name, part in schema["$defs"].items():
        if "properties" in part:
            out += ["", f"### `{name}`", "", plain(part.get("description", "")), ""]
            out += table(("field", "meaning", "type", "default"), _fields(part, ModelConfig))
    return "\n".join(out) + "\n"


def _fields(
    schema: Mapping[str, Any], model: type[BaseModel] = Recipe
) -> list[tuple[str, str, str, str]]:
    document = model.model_json_schema()
    return [
        (
            f"`{name}`",
            _cell(field.get("description", "")),
            _named_type(field, document),
            "required" if name in schema.get("required", ()) else f"`{_default(field)}`",
        )
        for name, field in schema["properties"].items()
    ]


def _named_type(field: Mapping[str, Any], document: Any) -> str:
    """Describe a type, with the names of records that have a table of their own."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[1]
        return f"`{name}`" if "properties" in document["$defs"][name] else _type(field, document)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return " or ".join(dict.fromkeys(_named_type(each, document) for each in field[key]))
    if field.get("type") == "array" and "items" in field:
        return f"array of {_named_type(field['items'], document)}"
    return _type(field, document)


def _default(field: Mapping[str, Any]) -> str:
    text = json.dumps(field.get("default"), ensure_ascii=False)
    return text if len(text) < 60 else "{...}"


def _errors() -> str:
    """The exceptions in Python."""
    return (
        "# Exceptions\n\n## Of repzoo\n\n"
        + with_code(repzoo.errors.__doc__)
        + "\n\n## Of the client\n\n::: repzoo_client.errors\n    options:\n"
        "      show_root_heading: false\n      show_root_toc_entry: false\n      heading_level: 3\n"
    )


def _python(module: str, title: str) -> str:
    """The public names of a package, without its exceptions, which are on the page of errors."""
    package = __import__(module)
    blocks = []
    for name in package.__all__:
        value = getattr(package, name)
        home = getattr(value, "__module__", "")  # type aliases have another one
        is_error = inspect.isclass(value) and issubclass(value, Exception)
        if home.startswith("repzoo") and not is_error:
            blocks.append(f"::: {home}.{name}\n    options:\n      heading: {module}.{name}\n")
    return f"# {title}\n\n{with_code(package.__doc__)}\n\n" + "\n".join(blocks)


def _training() -> str:
    names = (
        *("repzoo_training.data.load", "repzoo_training.loop.trainer.train"),
        "repzoo_training.pretrained.loading.load",
        *("repzoo_training.evaluation.runs.evaluate_run", "repzoo_training.recipes.recipe.Recipe"),
        "repzoo_training.objectives.objective.Objective",
        *(f"repzoo_training.objectives.{name}" for name in ("simvae.SimVAE", "vae.VAE")),
        "repzoo_training.content.posterior",
    )
    return "# Python: training\n\n" + "\n".join(f"::: {name}\n" for name in names)


def _cell(text: str) -> str:
    return plain(text).replace("\n", " ").replace("|", "\\|")


os.environ.setdefault("COLUMNS", str(_WIDTH))
