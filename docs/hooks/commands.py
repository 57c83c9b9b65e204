"""The command reference, from the commands themselves: ``<!-- commands -->`` in a page becomes all of them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import typer.main

from dynamicseg.cli import app

_PLACE = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the reference where a page wants it."""
    return markdown.replace(_PLACE, reference()) if _PLACE in markdown else markdown


def reference() -> str:
    """A section for each command, with its usage, its example, its arguments and its options."""
    return "\n\n".join(_section(name, command) for name, command in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by the name that it is called by: ``dynamicseg bench loss``."""
    yield from _below("dynamicseg", typer.main.get_command(app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    for own, child in getattr(command, "commands", {}).items():
        if hasattr(child, "commands"):
            yield from _below(f"{name} {own}", child)
        else:
            yield f"{name} {own}", child


def _section(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join([name, *(each.metavar for each in arguments), "[OPTIONS]"])
    parts = [f"## {name}", _text(command.help), f"```sh\n{usage}\n```"]
    if command.epilog:
        parts.append(f"Example:\n\n```sh\n{re.sub('^Examples?: ', '', command.epilog)}\n```")
    context = command.context_class(command, info_name=name)
    records = [(each.metavar, each.help) for each in arguments]
    records += filter(None, [each.get_help_record(context) for each in options])
    rows = [f"| {_code(what)} | {_text(text)} |" for what, text in records]
    return "\n\n".join([*parts, "\n".join(["| option | what it is |", "| --- | --- |", *rows])])


def _code(text: str) -> str:
    # A vertical line would end the cell, in code as well.
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _text(text: str | None) -> str:
    """Help is plain text; what Markdown would take for marks is escaped."""
    return re.sub(r"([*_<\[])", r"\\\1", text or "").replace("|", "&#124;")
