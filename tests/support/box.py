"""Another machine of a user: an sshd with a home of its own, on which rbee may be."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import psutil

from tests.support.home import processes_of, wait_for
from tests.support.sshd import Silent, Sshd, SshUser

ROOT = Path(__file__).parents[2]
OTHER_VERSION, OTHER_PROTOCOL = "0.0.9", 99
SHARED = Path(".local/share/rbee")


class Box:
    """`name` is its Host in the user's ssh config, which knows its port and key."""

    def __init__(self, folder: Path, name: str, me: SshUser, *, knows_me: bool = True) -> None:
        self.name = name
        self.folder = folder
        self._silent: Silent | None = None
        self.sshd = Sshd(folder, authorized=me.key if knows_me else None)
        self.home = self.sshd.home

    @property
    def config(self) -> str:
        """Its lines of ~/.ssh/config."""
        server = self.sshd
        return f"Host {self.name}\n  HostName {server.host}\n  Port {server.port}\n"

    @property
    def state(self) -> Path:
        """Where its hive keeps what runs."""
        return self.home / ".local" / "state" / "rbee"

    def has_rbee(self, root: Path | None = None, *, python: Path | None = None) -> None:
        """As if this version had been installed there; `python`: another one's."""
        scripts = python.parent if python is not None else Path(sysconfig.get_path("scripts"))
        root = root or self.home / SHARED
        version = OTHER_VERSION if python is not None else "0.1.0"
        place = root / "versions" / f"{version}-test"
        (place / "bin").mkdir(parents=True)
        for name in ("rbee", "rbee-hive", "python"):
            (place / "bin" / name).symlink_to(scripts / name)
        (root / "current").symlink_to(f"versions/{version}-test")

    def settings(self, text: str) -> None:
        """Its config.toml."""
        folder = self.home / ".config" / "rbee"
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(text, "utf-8")

    def fall_silent(self) -> None:
        """Its port takes connections, and nobody is behind it."""
        self.sshd.stop()
        self._silent = Silent(self.sshd.port)

    def processes(self) -> list[psutil.Process]:
        """Everything of rbee that runs there."""
        return [p for p in processes_of(self.folder) if "sshd" not in p.name()]

    def until_empty(self, limit: float) -> None:
        """Nothing runs there any more within the limit."""
        wait_for(
            lambda: not self.processes(), limit=limit,
            what=f"nothing runs on {self.name}: {[p.cmdline() for p in self.processes()]}",
        )  # fmt: skip

    def hive(self) -> psutil.Process:
        """The process of its hive."""
        (found,) = [p for p in self.processes() if "rbee.daemons.hive.main" in p.cmdline()]
        return found

    def close(self) -> None:
        """Switch it off."""
        if self._silent is not None:
            self._silent.close()
        self.sshd.thaw()
        self.sshd.stop()
        for process in processes_of(self.folder):
            process.kill()


def other_rbee(folder: Path) -> Path:
    """The Python of an installation of rbee whose version and protocol are others."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60
    )
    tree = folder / "tree"
    shutil.copytree(ROOT / "rbee", tree / "rbee", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "backends", tree / "rbee" / "backends", dirs_exist_ok=True)
    for file, old, new in (
        ("rbee/__init__.py", '__version__ = "0.1.0"', f'__version__ = "{OTHER_VERSION}"'),
        ("rbee/protocol/__init__.py", "PROTOCOL = 1\n", f"PROTOCOL = {OTHER_PROTOCOL}\n"),
    ):
        text = (tree / file).read_text("utf-8")
        assert old in text
        (tree / file).write_text(text.replace(old, new), "utf-8")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "here.pth").write_text(f"{tree}\n{sysconfig.get_path('purelib')}\n", "utf-8")
    for name, module in (("rbee", "rbee.cli"), ("rbee-hive", "rbee.daemons.hive.main")):
        script = folder / "bin" / name
        script.write_text(
            f"#!{folder}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n",
            "utf-8",
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder / "bin" / "python"
