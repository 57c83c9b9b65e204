"""Lines of a docstring that begin with ``>>>`` become a block of code; in Markdown they would be quotations."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"(?:^>>> .*\n?)+", re.MULTILINE)


class Examples(Extension):
    """For the reader of docstrings of mkdocstrings."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Changes the docstring of an object that was just read."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_as_code, obj.docstring.value)


def _as_code(found: re.Match[str]) -> str:
    code = re.sub("^>>> ", "", found[0].rstrip("\n"), flags=re.MULTILINE)
    return f"```python\n{code}\n```\n"
