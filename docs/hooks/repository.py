"""Pages that are kept elsewhere in the repository, and links out of the documentation into it.

Sources link to files as they lie in the repository, so that they can be read there as well.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "bench/results/README.md": "measured.md",
}
"""Files of the repository, and the pages that they become."""

_LINK = re.compile(r"(?<!\!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FROM_THE_NET = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^\"]*\"")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are kept elsewhere."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links to files of the repository to their pages; those that are no page become plain names."""
    home = {page: source for source, page in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def led(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if re.match(r"[a-z]+:", target):
            return found[0]
        path = os.path.normpath(os.path.join(os.path.dirname(home), target))
        if not (ROOT / path).exists():
            raise PluginError(f"{home}: there is no {path} in the repository to link to")
        if path not in PAGES and not path.startswith("docs/"):
            return f"`{path}`" if text.strip("`") in (path, target) else f"{text} (`{path}`)"
        to = PAGES.get(path, path.removeprefix("docs/"))
        return f"[{text}]({os.path.relpath(to, os.path.dirname(page.file.src_uri) or '.')}{anchor})"

    return _LINK.sub(led, markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Sees to it that a page needs nothing from the net."""
    if found := _FROM_THE_NET.search(output):
        raise PluginError(f"{page.file.src_uri}: would load {found[0]} from the net")
    return output
