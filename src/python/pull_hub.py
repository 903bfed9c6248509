"""What the hub answers: how long to wait for it, what an error means, and how that is printed."""

import errno
import json
import os
import re
import threading
import time
from email.utils import parsedate_to_datetime

# Before huggingface_hub is imported. Its progress bars are for a person at a terminal, and here is none.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

printing = threading.Lock()


def say(**event):
    """Prints one event as a line of JSON."""
    with printing:
        print(json.dumps(event), flush=True)


class Failed(Exception):
    """A failure that mlxctl explains: `kind` is one of Kind in pull.rs, `why` a line for the user."""

    def __init__(self, kind, why):
        super().__init__(why)
        self.kind, self.why = kind, why


def wished(error):
    """Seconds that the hub asks to wait (RFC 9110, 10.2.3, or the `t` of its RateLimit header); None: it sets none."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    wish = headers.get("Retry-After", "")
    if wish.isdecimal():
        return float(wish)
    try:
        return max(0.0, parsedate_to_datetime(wish).timestamp() - time.time())
    except (TypeError, ValueError):
        pass
    found = re.search(r"(?:^|[;,\s])t=(\d+)", headers.get("RateLimit", ""))
    return float(found[1]) if found else None


def asked(question, patience):
    """The answer to the first question.

    Repeated for up to `patience` seconds if the hub says that it is busy. Anything else fails at once: someone has just
    typed the command and is waiting.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return question()
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            wait = wished(error) or 2.0
            if status != 429 and not (status == 503 and wished(error) is not None):
                raise
            if time.monotonic() + wait > until:
                why = f"{words(error)}; it asks to wait {wait:.0f} s, longer than --timeout"
                raise Failed("hub", why) from error
            say(event="waiting", why=f"{words(error)}; waiting {wait:.0f} s as it asks")
            time.sleep(wait)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # Not JSON, or JSON that is not a listing.
            raise Failed("portal", f"{constants.ENDPOINT} did not answer with a listing: {words(error)}") from error


def network(error):
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"TransportError", "RequestException", "ConnectionError", "TimeoutError"})


def passing(error):
    """Whether another try may succeed."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        return status in (408, 429) or status >= 500
    return network(error)


def words(error):
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def kind(error):
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OfflineModeIsEnabled):
        return "offline"
    if isinstance(error, GatedRepoError):
        return "gated"
    if isinstance(error, RepositoryNotFoundError):
        return "not_found"
    if status in (401, 403):
        return "unauthorized"
    # RFC 6585, section 6.
    if status == 511:
        return "portal"
    if status is not None:
        return "not_found" if status == 404 else "hub"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    if network(error) or any(map(network, (error.__cause__, error.__context__))):
        return "network"
    return "io" if isinstance(error, OSError) and error.errno is not None else "unknown"
