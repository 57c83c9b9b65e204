"""Formulas become MathML, which browsers draw by themselves: no script, no font from the net.

In the sources they stand as in any Markdown with mathematics: a fence named ``math`` for one on lines of its own, and
a dollar sign and a backtick on either side for one in the text.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from mkdocs.exceptions import PluginError

_IN_TEXT = r"\$`([^`]+)`\$"


class _InText(InlineProcessor):  # type: ignore[misc]
    def handleMatch(self, found: re.Match[str], _: str) -> tuple[str, int, int]:  # noqa: N802
        return self.md.htmlStash.store(_mathml(found[1], "inline")), found.start(), found.end()


class _Formulas(Extension):  # type: ignore[misc]
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        # Before code in the text, which has priority 190, takes the backticks.
        md.inlinePatterns.register(_InText(_IN_TEXT, md), "formula", 195)


def _fence(source: str, *_: Any, **__: Any) -> str:
    return f'<p class="formula">{_mathml(source, "block")}</p>'


def _mathml(source: str, display: str) -> str:
    found = convert(source, display=display)
    if "\\" in found:  # the converter hands on what it does not know
        raise PluginError(f"{source}: one of its commands is not known")
    return str(found)


def on_config(config: Any) -> Any:
    """Adds both kinds of formula to what reads the pages."""
    config.markdown_extensions.append(_Formulas())
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "formula", "format": _fence})
    return config
