"""MkDocs' events: pages that the code writes join the others, and links hold in the repository and in the site.

MkDocs loads this file by its path (``hooks`` in mkdocs.yml) and calls the functions by their names.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # tools and paper are no part of the package

from mkdocs.structure.files import File, Files  # noqa: E402

from tools.pages import links, methods, reference  # noqa: E402


def on_config(config: Any) -> Any:  # Any: MkDocs' own configuration
    """Every method's page stands below "Methods"."""
    for item in config.nav:
        if "Methods" in item:
            item["Methods"] += [{name: f"methods/{name}.md"} for name in methods.names()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages of `tools.pages.methods` and `.reference`, and what of the repository the site takes in as it is."""
    for where, text in (methods.pages() | reference.pages()).items():
        files.append(File.generated(config, where, content=text))
    for origin, where in links.taken_in().items():
        files.append(File.generated(config, where, abs_src_path=str(ROOT / origin)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the site needs them."""
    return links.in_site(markdown, page.file.src_uri)
