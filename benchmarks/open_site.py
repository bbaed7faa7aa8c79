"""Open the documentation site in headless Chromium, from its folder and without a network; follow every link in it.

    python -m benchmarks.open_site site [--require]

The start page, a page of the reference and the search are opened as narrow as a telephone, in a frame of 390 pixels for
Chromium's window gets no narrower than 500, in dark mode: no script error, nothing wider than the page, a dark
background, and a search that finds `LSTM`. Every link and image of every page leads to a file that is there, an anchor
to a place in it. Exit status 1 if something is wrong, 0 if nothing is or there is no Chromium here (which is said);
``--require`` makes that 2.
"""

from __future__ import annotations

import argparse
import html
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from benchmarks.open_page import NAMES, OPTIONS, browser

OPENED = {"start.html": "start", "reference/layers.html": "LSTM", "search.html?q=LSTM": "search finished"}
"""Pages to open, and a word of each that is there once it has loaded."""
DARK = "--blink-settings=preferredColorScheme=0"
PROBE = """<script>
const tell = noted => parent.postMessage(noted, "*");
addEventListener("error", event => tell({error: event.message}));
addEventListener("load", () => setTimeout(() => {
  const root = document.documentElement;
  tell({width: root.scrollWidth + "/" + root.clientWidth, ground: getComputedStyle(document.body).backgroundColor,
        found: document.querySelectorAll("#search-results li").length, text: document.body.innerText});
}, 3000));
</script>"""
"""What a page tells the frame that it is in; it is put into copies of the pages."""
FRAME = """<!doctype html><html><script>
addEventListener("message", event => {
  for (const name in event.data) document.documentElement.setAttribute("data-" + name, event.data[name]);
});
</script><iframe src="%s" style="width: 390px; height: 800px; border: 0"></iframe></html>"""
"""A page with a telephone's width in it, which notes on its root element what that tells."""


@cache
def anchors(page: Path) -> frozenset[str]:
    """Places in a page that links can lead to."""
    return frozenset(html.unescape(one) for one in re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))


def dead(site: Path) -> list[str]:
    """Return the links and sources of all pages that lead nowhere, or out to the network for what a page is made of."""
    found = []
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        for tag, link in re.findall(r'<(a|img|link|script|object)\b[^>]*?\b(?:href|src|data)="([^"]*)"', text):
            target, _, anchor = unquote(html.unescape(link)).partition("#")
            if re.match(r"[a-z]+:", target):
                found += [f"{page}: {tag} needs a network: {link}"] * (tag != "a" and not target.startswith("data:"))
                continue
            to = (page.parent / target.partition("?")[0]).resolve() if target else page
            if not to.is_file():
                found.append(f"{page}: nothing at {link}")
            elif anchor and to.suffix == ".html" and anchor not in anchors(to):
                found.append(f"{page}: no such place: {link}")
    return found


def wrong_with(site: Path, page: str, word: str, program: str) -> str:
    """Return what is wrong with a page in a narrow window and dark mode; empty where nothing is."""
    name, _, question = page.partition("?")
    path = site / name
    if not path.is_file():
        return "it isn't there"
    copy, frame = path.with_name(f"opened-{path.name}"), path.with_name(f"frame-{path.name}")
    copy.write_text(path.read_text(encoding="utf-8").replace("<head>", "<head>" + PROBE, 1), encoding="utf-8")
    frame.write_text(FRAME % (copy.name + ("?" + question if question else "")), encoding="utf-8")
    try:
        with tempfile.TemporaryDirectory() as profile:
            command = [program, *OPTIONS, DARK, f"--user-data-dir={profile}", "--dump-dom", frame.resolve().as_uri()]
            shown = subprocess.run(command, capture_output=True, text=True, timeout=180).stdout
    finally:
        copy.unlink()
        frame.unlink()
    noted = dict(re.findall(r'data-(error|width|ground|found|text)="([^"]*)"', shown))
    if "error" in noted:
        return f"a script error: {noted['error']}"
    if "width" not in noted:
        return "it did not load"
    wide, width = map(int, noted["width"].split("/"))
    red = int((re.findall(r"\d+", noted["ground"]) or ["255"])[0])
    wrong = [f"it is {wide} wide on a screen of {width}"] * (wide > width)
    wrong += [f"its ground is {noted['ground']} in dark mode"] * (red > 60)
    wrong += [f"{word!r} isn't on it"] * (word.lower() not in noted["text"].lower())
    wrong += ["the search finds nothing"] * (name == "search.html" and noted["found"] == "0")
    return "; ".join(wrong)


def main() -> int:
    """Look at a site."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="the folder that sphinx-build wrote")
    parser.add_argument("--require", action="store_true", help="exit status 2 where there is no Chromium")
    options = parser.parse_args()
    found = dead(options.site)
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(list(options.site.rglob('*.html')))} pages, {len(found)} dead links")
    program = browser()
    if program is None:
        print(f"not opened: no Chromium here ({', '.join(NAMES)})")
        return 1 if found else 2 if options.require else 0
    status = int(bool(found))
    for page, word in OPENED.items():
        wrong = wrong_with(options.site, page, word, program)
        print(f"{page}: {wrong or 'opens without an error, narrow, in dark mode'}")
        status |= bool(wrong)
    return status


if __name__ == "__main__":
    sys.exit(main())
