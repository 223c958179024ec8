"""The reference tells what the comment beside a field says of it: ``obs: Tree  # [T, N, *O]``."""

from typing import Any

import griffe


class Comments(griffe.Extension):
    """Takes the comment at the end of an attribute's line for its docstring, where it has none."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Called for each attribute."""
        _, mark, comment = attr.source.rpartition("  # ")
        if mark and attr.docstring is None and not comment.startswith(("type:", "noqa")):
            attr.docstring = griffe.Docstring(comment, parent=attr)
