"""The site that `make docs` builds."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LOADED = re.compile(r"<(?:script|img|iframe|source)[^>]* src=[\"']?([^\"' >]+)|<link[^>]* href=[\"']?([^\"' >]+)")


def test_site_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    """Scripts, styles, fonts and images of every page are files of the site."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", f"--site-dir={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, timeout=300)
    pages = [path for path in tmp_path.rglob("*.html") if path.name != "404.html"]
    assert len(pages) > 10
    for page in pages:
        loaded = [script or link for script, link in LOADED.findall(page.read_text())]
        # The theme would otherwise load it from a content delivery network.
        assert any(each.endswith("assets/mermaid.min.js") for each in loaded), page
        for each in loaded:
            assert not re.match(r"(https?:)?//", each), f"{page}: {each}"
            assert (page.parent / each.partition("?")[0]).exists(), f"{page}: {each}"
