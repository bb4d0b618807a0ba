"""One alert channel: an apprise URL whose secrets come from the environment or a file, and are shown to nobody."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FROM_FILE = "file:"
VARIABLE = re.compile(r"\$\{(\w+)\}")
HIDDEN = "****"


class Channel:
    """A channel as configured: `json://${USER}:${PASSWORD}@host/`, or `file:PATH` of a file that holds the whole URL.

    A relative PATH is below the workspace. `label` names the channel without its secrets, `key` is its identity.
    """

    def __init__(self, configured: str, root: Path) -> None:
        self.configured = configured
        self.root = root
        self.key = sha256(configured.encode()).hexdigest()[:16]
        self.label = f"{urlsplit(configured).scheme or 'channel'}://{HIDDEN}"
        self._secrets: list[str] = []

    def send(self, title: str, text: str) -> dict[str, Any]:
        """Sends one message; {"channel", "ok", "says"}. Whatever goes wrong is told here, and stays here."""
        try:
            ok, says = self._notify(title, text)
        except ChannelError as error:
            ok, says = False, str(error)
        except Exception as error:  # a plugin's fault, of whatever kind, must not silence the next channel
            ok, says = False, f"the channel broke ({type(error).__name__})"
        return {"channel": self.label, "ok": ok, "says": says}

    def _notify(self, title: str, text: str) -> tuple[bool, str]:
        import apprise

        plugin = apprise.Apprise.instantiate(self._resolve(), suppress_exceptions=True)
        if plugin is None:
            raise ChannelError("it is no channel that apprise knows: check its URL")
        self.label = self._masked(plugin.url(privacy=True))
        with apprise.LogCapture(level=apprise.logging.WARNING, fmt="%(message)s") as heard:
            ok = bool(plugin.notify(title=title, body=text))
            reason = self._hide(" ".join(heard.getvalue().split()))
        return ok, "delivered" if ok else reason or "the channel refused it and gave no reason"

    def _resolve(self) -> str:
        """The URL with its secrets; they are remembered, to be hidden. Raises ChannelError."""
        if self.configured.startswith(FROM_FILE):
            path = self.root / self.configured.removeprefix(FROM_FILE)
            try:
                url = path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                raise ChannelError("the file with its URL can't be read: check its path and permissions") from None
            self._secrets = [url]
            return url
        names = VARIABLE.findall(self.configured)
        for name in names:
            if not os.environ.get(name):
                raise ChannelError(f"the environment variable {name} is not set")
        self._secrets = [os.environ[name] for name in names]
        return VARIABLE.sub(lambda match: os.environ[match[1]], self.configured)

    def _masked(self, url: str) -> str:
        """Scheme and host as apprise shows them in private; path and query may hold tokens of web hooks."""
        parts = urlsplit(url)
        path = f"/{HIDDEN}" if parts.path.strip("/") else ""
        return self._hide(f"{parts.scheme}://{parts.netloc}{path}")

    def _hide(self, text: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text


class ChannelError(Exception):
    """The channel can't be used as it is configured; the message holds no secret."""
