"""A page in headless Chromium, driven by the DevTools protocol with the standard library only."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def _runs(program: str) -> bool:
    """Whether it is a browser: some systems have a stub that only says how to install one."""
    try:
        asked = subprocess.run([program, "--version"], capture_output=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


_FOUND = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
PROGRAM = next(filter(_runs, _FOUND), None)
#: The protocol speaks over descriptors 3 and 4, which only the new process itself can set safely.
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)


class Page:
    """One page. Use as a context manager; a call that takes longer than `patience` s fails."""

    def __init__(self, profile: Path, patience: float = 120) -> None:
        assert PROGRAM is not None
        self.patience, self._number, self._rest = patience, 0, b""
        self.events: list[Any] = []
        pipes = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (*os.pipe(), *os.pipe())]
        hears, self._out, self._in, speaks = pipes
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(hears), str(speaks), PROGRAM, "--headless",
             "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--hide-scrollbars", "--allow-pre-commit-input", "--remote-debugging-pipe",
             f"--user-data-dir={profile}"],
            pass_fds=(hears, speaks), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(hears)
        os.close(speaks)
        self._session: str | None = None
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Network", "Log", "Runtime"):
                self._call(f"{domain}.enable")
            self._call("Page.setLifecycleEventsEnabled", enabled=True)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def __call__(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        made = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def open(self, path: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a file into a window of so many pixels, and forget what was before."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        for url in ("about:blank", path.resolve().as_uri()):
            self.events = []
            loader = self._call("Page.navigate", url=url)["loaderId"]
            self._until(lambda loader=loader: self._loaded(loader))

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Scroll an element into view; return its left, top, width and height."""
        return tuple(
            self(
                f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
                "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
                "return [b.left, b.top, b.width, b.height]; })()"
            )
        )

    def click(self, selector: str, times: int = 1) -> None:
        """Click the middle of an element with the mouse."""
        left, top, width, height = self.box(selector)
        x, y = left + width / 2, top + height / 2
        for count in range(1, times + 1):
            self.mouse("Pressed", x, y, count)
            self.mouse("Released", x, y, count)

    def mouse(self, what: str, x: float, y: float, count: int = 1) -> None:
        """Send a mouse event: Pressed, Released or Moved."""
        button = {} if what == "Moved" else {"button": "left", "clickCount": count}
        self._call("Input.dispatchMouseEvent", type=f"mouse{what}", x=x, y=y, **button)

    def key(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def _loaded(self, loader: str) -> bool:
        states = [e["params"] for e in self.events if e["method"] == "Page.lifecycleEvent"]
        return any(s["name"] == "load" and s["loaderId"] == loader for s in states)

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for."""
        found = (e for e in self.events if e["method"] == "Network.requestWillBeSent")
        return [e["params"]["request"]["url"] for e in found]

    def complaints(self) -> list[Any]:
        """Return errors and breaches of the page's policy."""
        bad = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [e["params"] for e in self.events if e["method"] in bad]

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        made = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(made["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            answers.extend(e for e in self.events if e.get("id") == self._number)
            return bool(answers)

        self._until(answered)
        self.events = [e for e in self.events if "method" in e]
        assert "result" in answers[0], f"{method}: {answers[0].get('error')}"
        return answers[0]["result"]

    def _until(self, holds: Any) -> None:
        end = time.monotonic() + self.patience
        while not holds():
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            assert data, f"no answer from {PROGRAM} within {self.patience} s"
            *messages, self._rest = (self._rest + data).split(b"\0")
            self.events += map(json.loads, messages)
