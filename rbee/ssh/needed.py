"""Which packages a machine needs: a walk over requirements, as that machine's markers see them.

Pure: what each package requires is asked of a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name

from rbee.errors import InstallFailed

Lookup = Callable[[NormalizedName], Iterable[str] | None]
"""The requirements of a package, as its METADATA has them; None: they are not known."""


@dataclass
class Need:
    """A package. `versions`: what those who need it admit."""

    name: NormalizedName
    versions: SpecifierSet = field(default_factory=SpecifierSet)
    known: bool = True
    """Its own requirements were walked, too."""


def walk(
    requires: Iterable[str],
    extras: Iterable[str],
    environment: Mapping[str, str],
    lookup: Lookup,
    name: str = "rbee",
) -> dict[NormalizedName, Need]:
    """Everything that a package with `requires` needs, without itself; in the order of names."""
    root = canonicalize_name(name)
    listed = {root: list(requires)}
    found: dict[NormalizedName, Need] = {}
    done: set[tuple[NormalizedName, str]] = set()
    ahead = [(root, extra) for extra in ("", *extras)]
    while ahead:
        here = package, extra = ahead.pop()
        if here in done:
            continue
        done.add(here)
        for text in listed.get(package, []):
            requirement = _parsed(text, package)
            marker = requirement.marker
            if marker is not None and not marker.evaluate({**environment, "extra": extra}):
                continue
            wanted = canonicalize_name(requirement.name)
            if wanted != root:
                need = found.setdefault(wanted, Need(wanted))
                need.versions &= requirement.specifier
                if wanted not in listed:
                    known = lookup(wanted)
                    need.known = known is not None
                    listed[wanted] = list(known or ())
            ahead += [(wanted, each) for each in ("", *requirement.extras)]
    return dict(sorted(found.items()))


def _parsed(text: str, package: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as exc:
        raise InstallFailed(
            f"{package} requires {text!r}, which cannot be read: {exc}", step="packages"
        ) from exc
