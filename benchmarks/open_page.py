"""Open a page of `gpu-lstm bench` or `gpu-lstm inspect` in headless Chromium: no script error, every chart drawn.

    python -m benchmarks.open_page runs/bench/report.html [MORE ...]

Exit status 1 if a page is not as it should be, 0 if all are, or if there is no Chromium here (which is said);
``--require`` makes that 2.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=60000",  # a page may unpack its data before it draws
)  # fmt: skip


def browser() -> str | None:
    """A Chromium, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def wrong_with(page: Path, program: str) -> str:
    """What is wrong with a page; empty where nothing is."""
    with tempfile.TemporaryDirectory() as profile:
        command = [program, *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", page.resolve().as_uri()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    # The page's own script notes these on the root element.
    root = re.search(r"<html[^>]*>", result.stdout)
    error = re.search(r'data-error="([^"]*)"', root[0]) if root else None
    charts = re.search(r'data-charts="(\d+)/(\d+)"', root[0]) if root else None
    if error:
        return f"a script error: {error[1]}"
    if not charts:
        return "its script did not end"
    drawn, total = int(charts[1]), int(charts[2])
    if total == 0 or drawn < total or result.stdout.count("data-drawn=") != total:
        return f"{drawn} of {total} charts are drawn"
    return ""


def main() -> int:
    """Open every page that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--require", action="store_true", help="exit status 2 where there is no Chromium")
    options = parser.parse_args()
    program = browser()
    if program is None:
        print(f"skipped: no Chromium here ({', '.join(NAMES)})")
        return 2 if options.require else 0
    status = 0
    for page in options.pages:
        wrong = wrong_with(page, program)
        print(f"{page}: {wrong or 'opens without an error, every chart is drawn'}")
        status |= bool(wrong)
    return status


if __name__ == "__main__":
    sys.exit(main())
