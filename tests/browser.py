"""A headless Chromium that opens files, driven over a pipe with its own protocol: nothing to install besides it."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions "
    "--use-angle=swiftshader --enable-unsafe-swiftshader --remote-debugging-pipe"
)


class Browser:
    """One page. `errors` collects errors of the console, exceptions, and requests for anything but the page."""

    def __init__(self, folder):
        from_us, to_us = os.pipe(), os.pipe()
        command = f'exec {CHROMIUM} {_FLAGS} --user-data-dir="$1" about:blank 3<&{from_us[0]} 4>&{to_us[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", str(folder)],
            pass_fds=(from_us[0], to_us[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us[0])
        os.close(to_us[1])
        self._out, self._in = from_us[1], to_us[0]
        self._buffer, self._count, self._session, self.errors = b"", 0, None, []
        (target,) = [each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Send a command and wait for its result; `RuntimeError` for an error, `TimeoutError` after a minute."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self):
        until = time.monotonic() + 60
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            got = os.read(self._in, 1 << 20)
            if not got:
                raise RuntimeError("the browser ended")
            self._buffer += got
        text, _, self._buffer = self._buffer.partition(b"\0")
        answer = json.loads(text)
        self._note(answer.get("method"), answer.get("params", {}))
        return answer

    def _note(self, method, found):
        if method == "Runtime.exceptionThrown":
            self.errors.append(found["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.errors.append(found["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "assert"):
            self.errors.append(str([each.get("value", each.get("description")) for each in found["args"]]))
        elif method == "Network.requestWillBeSent":
            url = found["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:", "about:")):
                self.errors.append(f"asks for {url}")

    def run(self, expression):
        """The value of a JavaScript expression; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, expression, seconds=60.0):
        """Until the expression is true; `TimeoutError` if it never is."""
        until = time.monotonic() + seconds
        while not self.run(expression):
            if time.monotonic() > until:
                raise TimeoutError(f"never true: {expression}; errors: {self.errors}")
            time.sleep(0.05)

    def open(self, path, width=1400, height=900, dark=False):
        """Open a file at this size, and wait until its figures are drawn."""
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait("document.documentElement?.dataset.ready === 'yes'")

    def pointer(self, kind, x, y):
        """Move ("mouseMoved") or click ("click") at a place of the window."""
        for each in ("mousePressed", "mouseReleased") if kind == "click" else (kind,):
            button = {"button": "left", "clickCount": 1} if kind == "click" else {}
            self.call("Input.dispatchMouseEvent", type=each, x=x, y=y, **button)

    def key(self, name):
        """Press a key, such as "ArrowRight"."""
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Escape": 27, "Tab": 9}[name]
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def screenshot(self, path, whole=True):
        """The window, or the whole page, as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def printed(self, path):
        """The page as it is printed, as a PDF."""
        found = self.call("Page.printToPDF", printBackground=False)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def close(self):
        """End the browser."""
        try:
            self.call("Browser.close")
            self._process.wait(10)
        except (RuntimeError, TimeoutError, subprocess.TimeoutExpired, OSError):
            self._process.kill()
        os.close(self._out)
        os.close(self._in)
