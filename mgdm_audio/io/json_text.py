"""JSON for people to read, whatever the files in it are called."""

from __future__ import annotations

import json
from typing import Any


def json_text(value: Any, indent: int = 2) -> str:
    """JSON with names as they are; where one is no Unicode, all are escaped so that it survives."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text
