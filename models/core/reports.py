"""HTML reports: one file, pictures inside, nothing fetched from elsewhere."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

SHARED = Path(__file__).parent / "templates"


def render(template: Path, **values: Any) -> str:
    """The text of a report.

    Args:
        template: of the method; it extends ``base.html.j2``, which holds styles and frame.
        values: that the template names.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = embedded
    return environment.get_template(template.name).render(**values) + "\n"


def embedded(picture: Path) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
