"""A browser, driven over the W3C's WebDriver protocol with only the standard library."""

import base64
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from instance import free_port

# Disables what Chromium would do by itself.
QUIET = [
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--hide-scrollbars", "--disable-lcd-text",
]


def programs():
    """Chromium and chromedriver, or an exit that says what to install."""
    browser = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        missing = " and ".join(name for name, found in (("Chromium", browser), ("chromedriver", driver)) if not found)
        sys.exit(f"{missing} is not there: on Debian `apt-get install chromium chromium-driver`, on a Mac `brew install --cask chromium chromedriver`")
    return browser, driver


class Browser:
    """One window. Chromium has no sandbox for root."""

    def __init__(self, browser, driver, root):
        self.profile = tempfile.TemporaryDirectory(prefix="mlxctl-browser-")
        port = free_port()
        self.at = f"http://127.0.0.1:{port}"
        self.driver = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        arguments = [*QUIET, f"--user-data-dir={self.profile.name}", *(["--no-sandbox"] if root else [])]
        options = {
            "goog:chromeOptions": {"binary": browser, "args": arguments, "perfLoggingPrefs": {"enableNetwork": True}},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        began = time.monotonic()
        while True:
            try:
                made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": options}})
                break
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() - began > 30:
                    raise
                time.sleep(0.1)
        self.session = f"/session/{made['sessionId']}"

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.at + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, url):
        self.ask("POST", f"{self.session}/url", {"url": url})

    def run(self, script, *arguments):
        """Runs a function body in the page and returns its result."""
        return self.ask("POST", f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def tools(self, command, **parameters):
        """Runs a command of Chrome's own protocol."""
        return self.ask("POST", f"{self.session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self, kind):
        """The entries logged since the last call."""
        return self.ask("POST", f"{self.session}/se/log", {"type": kind})

    def look(self, width, height, scheme, scale=1):
        self.tools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600)
        self.tools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path, height=None):
        """A screenshot of the page from its top, in full height or up to `height`."""
        size = self.tools("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height or size["height"]), "scale": 1}
        taken = self.tools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        pathlib.Path(path).write_bytes(base64.b64decode(taken["data"]))

    def close(self):
        try:
            self.ask("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait(20)
            self.profile.cleanup()
