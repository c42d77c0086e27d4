"""Pages of the notebooks, with the outputs that are stored in them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs_site.links import ROOT

NOTEBOOKS = {
    f"tutorials/notebook-{path.stem}.md": path for path in (ROOT / "notebooks").glob("*.ipynb")
}


def page(path: Path) -> str:
    """Return a notebook as Markdown."""
    begin = f"This page is the notebook [{path.name}](../../notebooks/{path.name}), as it ran.\n"
    first, *others = json.loads(path.read_text())["cells"]
    title, _, text = "".join(first["source"]).partition("\n")
    return "\n\n".join([title, begin, text, *(_shown(cell) for cell in others)])


def _shown(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *_outputs(cell["outputs"])])


def _outputs(outputs: list[dict[str, Any]]) -> Iterator[str]:
    for text in ["".join(out["text"]) for out in outputs if "text" in out]:
        yield f"```text\n{text.rstrip()}\n```"
    for out in outputs:
        if (picture := out.get("data", {}).get("image/png")) is not None:
            yield f'<img alt="What this cell draws" src="data:image/png;base64,{picture.strip()}">'
