"""What `rbee web` sends to browsers: the page of the terminal, plain pages, and their headers.

The terminal itself (JavaScript, its style, fonts) is textual-serve's, taken from where it is
installed. Nothing of a page comes from another host, and the headers see to it that it stays so.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

from rbee.errors import BackendUnavailable

INSTALL = "pip install 'rbee[web]'"
TYPES = {".js": "text/javascript", ".css": "text/css", ".ttf": "font/ttf"}
_THEIRS = {
    "textual.js": "js/textual.js",
    "xterm.css": "css/xterm.css",
    "mono.ttf": "fonts/RobotoMono-VariableFont_wght.ttf",
    "mono-italic.ttf": "fonts/RobotoMono-Italic-VariableFont_wght.ttf",
}
_NO_LINK = """\
<p>{why}</p>
<p>In the terminal where <code>rbee web</code> runs, press Enter for a new link; it works once, in
one browser. Where it runs without a terminal, start it again.</p>"""


def static_folder() -> Path:
    """Where textual-serve keeps its static files. Raises BackendUnavailable when it, or what it
    needs, is not installed. Imports neither: that is 300 ms, for a server that is not used."""
    spec = find_spec("textual_serve")
    places = spec.submodule_search_locations if spec is not None else None
    if not places or find_spec("aiohttp") is None:
        raise BackendUnavailable(
            "the screens in a browser need packages that are not installed",
            action=f"Install them: {INSTALL}",
        )
    return Path(next(iter(places))) / "static"


def assets() -> dict[str, Path]:
    """Name → file of everything the page loads. Raises BackendUnavailable naming what is not there,
    which would be another textual-serve than this was written for."""
    found = {name: static_folder() / path for name, path in _THEIRS.items()}
    missing = [str(path) for path in found.values() if not path.is_file()]
    if missing:
        raise BackendUnavailable(
            f"textual-serve has no {missing[0]}", action=f"Install the one that fits: {INSTALL}"
        )
    return found | {name: Path(str(files("rbee.web") / name)) for name in ("page.css", "page.js")}


def terminal(host: str, prefix: str) -> str:
    """The page with the terminal, for a browser that used this Host (which was checked)."""
    return _template("page.html").substitute(host=html.escape(host), prefix=prefix)


def opening(prefix: str) -> str:
    """Sends the browser on to the terminal. A page, not a redirect: the step is then our own, and
    a cookie for our own pages (SameSite=Strict) goes with it wherever the link was followed."""
    return _template("plain.html").substitute(
        head=f'<meta http-equiv="refresh" content="0;url={prefix}">',
        body=f'<p><a href="{prefix}">The screen opens…</a></p>',
    )


def refusal(why: str) -> str:
    """Why nothing is shown, and how to get in."""
    return _template("plain.html").substitute(head="", body=_NO_LINK.format(why=html.escape(why)))


def headers(host: str) -> Mapping[str, str]:
    """On every reply: nothing from elsewhere, nothing kept, nothing told, no frame around it."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self' 'unsafe-inline'",  # xterm.js writes its colours into <style>
        "font-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": f"'self' ws://{host}" if host else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{k} {v}" for k, v in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Permissions-Policy": "clipboard-read=(), camera=(), microphone=(), geolocation=()",
        "Cache-Control": "no-store",
        "Server": "rbee",
    }


@lru_cache(maxsize=4)
def _template(name: str) -> Template:
    return Template((files("rbee.web") / name).read_text("utf-8"))
