"""Headless Chromium over the W3C WebDriver protocol, by the standard library: what tests of the page need of it."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

PATIENCE_S = 60
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--host-resolver-methods=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
"""The sandbox does not start as root, and the pages are our own; no name of a host is ever looked up."""


def find_chromium() -> tuple[str, str] | None:
    """Paths of chromedriver and Chromium; None where one of the two is missing."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    return (driver, chromium) if driver and chromium else None


def find_axe(repository: Path) -> Path | None:
    """axe-core's `axe.min.js`: named by AUTODISTILL_AXE, or put into `node_modules` by npm."""
    named = os.environ.get("AUTODISTILL_AXE")
    path = Path(named) if named else repository / "node_modules" / "axe-core" / "axe.min.js"
    return path if path.is_file() else None


class Browser:
    """One session of a running chromedriver."""

    def __init__(self, address: str, chromium: str) -> None:
        self.address = address
        options = {"binary": chromium, "args": list(FLAGS)}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self.post("/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address = f"{address}/session/{answer['sessionId']}"

    def post(self, path: str, body: dict[str, Any], method: str = "POST") -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)["value"]

    def command(self, name: str, **params: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.post("/goog/cdp/execute", {"cmd": name, "params": params})

    def show(self, page: Path, *, width: int = 1100, scheme: str = "light", medium: str = "screen") -> None:
        """Load a page at a width in CSS pixels, in a colour scheme, on screen or as for print."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", media=medium, features=features)
        self.post("/url", {"url": page.as_uri()})

    def run(self, script: str) -> Any:
        """What a script returns; the page's own policy does not hold for it."""
        return self.post("/execute/sync", {"script": script, "args": []})

    def run_async(self, script: str) -> Any:
        """What a script gives to `done`."""
        wrapped = f"const done = arguments[arguments.length - 1]; {script}"
        return self.post("/execute/async", {"script": wrapped, "args": []})

    def complaints(self) -> list[str]:
        """What the console said since the last time that somebody asked, warnings and errors."""
        said = self.post("/se/log", {"type": "browser"})
        return [one["message"] for one in said if one["level"] in ("WARNING", "SEVERE")]


@contextmanager
def browsing(driver: str, chromium: str) -> Iterator[Browser]:
    """A browser as long as the block lasts."""
    server = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        port = next(found[1] for line in server.stdout if (found := re.search(r"on port (\d+)\.", line)))
        browser = Browser(f"http://127.0.0.1:{port}", chromium)
        try:
            yield browser
        finally:
            browser.post("", {}, method="DELETE")
    finally:
        server.terminate()
        server.communicate()
