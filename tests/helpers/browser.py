"""Headless Chromium, driven over a pipe with the DevTools protocol: nothing but the browser itself is needed."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]
# Chromium reads from descriptor 3 and writes to 4; above 9, neither pipe is overwritten by the other.
START = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
SHIFT = 8


def executable():
    """Path of Chromium; None where there is none."""
    return next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


class Browser:
    """One browser with one page, for as long as the ``with`` block lasts.

    Attributes:
        events: All that the page reported, in order: dictionaries with method and params.
    """

    def __init__(self, profile):
        self.profile, self.events, self.numbers = profile, [], itertools.count(1)
        self.session, self.received = None, b""

    def __enter__(self):
        read, self.to = os.pipe()
        self.by, write = os.pipe()
        chromium = [executable(), *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        command = [sys.executable, "-c", START, str(read), str(write), *chromium]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=(read, write), **quiet)
        os.close(read)
        os.close(write)
        try:
            target = self("Target.createTarget", url="about:blank")["targetId"]
            self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.to)
        os.close(self.by)

    def __call__(self, method, **params):
        """Call a method of the protocol and return its result."""
        message = {"id": next(self.numbers), "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.to, data) :]
        while (answer := self._next()).get("id") != message["id"]:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self, timeout=60):
        deadline = time.monotonic() + timeout
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.by], [], [], max(0, deadline - time.monotonic()))
            chunk = os.read(self.by, 1 << 20) if ready else b""
            assert chunk, f"no answer from Chromium (exit status {self.process.poll()})"
            self.received += chunk
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def open(self, path):
        """Load a file and wait until all its images are decoded."""
        self("Page.navigate", url=Path(path).resolve().as_uri())
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            time.sleep(0.05)
        self.run("Promise.allSettled([...document.images].filter(i => i.src).map(i => i.decode())).then(() => 0)")

    def run(self, expression):
        """Value of a JavaScript expression; promises are awaited."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def resize(self, width, height, *, mobile=False):
        """Set the size of the window, CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self("Emulation.setDeviceMetricsOverride", **size, mobile=mobile)

    def key(self, key, modifiers=0):
        """Press and release a key."""
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        what = {"key": key, "modifiers": modifiers, "windowsVirtualKeyCode": KEYS.get(key, 0)}
        self("Input.dispatchKeyEvent", type="keyDown", text=text, **what)
        self("Input.dispatchKeyEvent", type="keyUp", **what)

    def pointer(self, selector, x=0.5, y=0.5, *, click=True):
        """Move the pointer to a place within an element, relative to its size, and click there."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
        )
        where = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
        self("Input.dispatchMouseEvent", type="mouseMoved", **where)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def settle(self):
        """Wait until the page has been drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")

    def screenshot(self, path, *, full=False):
        """Write what the window shows, or the whole page, as PNG."""
        data = self("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def complaints(self):
        """Errors in the console, exceptions, and violations of the page's own rules."""
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"])
            if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
                found.append(params["args"])
            if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"])
        return found

    def requested(self):
        """Addresses that were asked for, but data: URIs."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return {url for url in sent if not url.startswith("data:")}
