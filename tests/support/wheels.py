"""Wheels made on the spot: a few lines of Python that pip installs like any other."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path


def wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    code: str = "",
    requires: Sequence[str] = (),
    scripts: Sequence[str] = (),
) -> Path:
    """One module `name` with `code`; `scripts` are commands that call its `main`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": "\n".join(
            [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                f"Version: {version}",
                "Provides-Extra: llamacpp",
                *(f"Requires-Dist: {requirement}" for requirement in requires),
            ]
        )
        + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    if scripts:
        lines = "".join(f"{script} = {name}:main\n" for script in scripts)
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def rbee_wheel(folder: Path, version: str, *, says: str | None = None) -> Path:
    """A package `rbee` whose command tells a version, and that needs a dependency."""
    code = f"import hexagon\ndef main():\n    print('rbee', {says or version!r})\n"
    return wheel(
        folder, "rbee", version, code=code, scripts=("rbee",),
        requires=("hexagon>=1", "smoker; extra == 'llamacpp'"),
    )  # fmt: skip
