"""Other machines of a user: sshds with homes of their own, on which rbee may be; and the user."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.home import Home, processes_of, wait_for, words_of
from tests.support.sshd import Silent, Sshd, SshUser
from tests.support.told import Reader

ROOT = Path(__file__).parents[2]
OTHER_VERSION, OTHER_PROTOCOL = "0.0.9", 99
HIVE_SETTINGS = 'frozen=True):\n    """The part that runs workers on one machine."""\n'
MOTTO = '\n    motto: Annotated[str, Meta(description="Words to live by.")] = ""\n'
SHARED = Path(".local/share/rbee")


def _is_rbees(process: psutil.Process) -> bool:
    """Not the server's; one that has gone meanwhile is nobody's."""
    try:
        return "sshd" not in process.name()
    except psutil.NoSuchProcess:
        return False


class Box:
    """`name` is its Host in the user's ssh config, which knows its port and key. `options`: of
    its sshd."""

    def __init__(
        self, folder: Path, name: str, me: SshUser, *, knows_me: bool = True, **options: Any
    ) -> None:
        self.name = name
        self.folder = folder
        self.more = ""
        """Further lines of its part of the config."""
        self._silent: Silent | None = None
        self.sshd = Sshd(folder, authorized=me.key if knows_me else None, **options)
        self.home = self.sshd.home

    @property
    def config(self) -> str:
        """Its lines of ~/.ssh/config."""
        server = self.sshd
        return f"Host {self.name}\n  HostName {server.host}\n  Port {server.port}\n{self.more}"

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
        return [p for p in processes_of(self.folder) if _is_rbees(p)]

    def until_empty(self, limit: float) -> None:
        """Nothing runs there any more within the limit."""
        wait_for(lambda: not self.processes(), limit=limit, what=f"nothing runs on {self.name}")

    def hive(self) -> psutil.Process:
        """The process of its hive."""
        (found,) = [p for p in self.processes() if "rbee.daemons.hive.main" in words_of(p)]
        return found

    def close(self) -> None:
        """Switch it off."""
        if self._silent is not None:
            self._silent.close()
        self.sshd.thaw()
        self.sshd.stop()
        for process in processes_of(self.folder):
            process.kill()


class Boxes(dict[str, Box]):
    """All other machines of one user by name, and what the user does with them."""

    def __init__(self, home: Home, folder: Path) -> None:
        super().__init__()
        self.home = home
        self.folder = folder
        self.me = SshUser(home.path)

    def add(self, name: str, *, knows_me: bool = True, **options: Any) -> Box:
        """One more, switched on."""
        box = self[name] = Box(self.folder / name, name, self.me, knows_me=knows_me, **options)
        self.configure()
        return box

    def configure(self, more: str = "") -> None:
        """Write the user's ssh config."""
        key = f"Host *\n  IdentityFile {self.me.key}\n"
        self.me.configure("".join(box.config for box in self.values()) + more + key)

    def close(self) -> None:
        """The user's queen ends, then all machines."""
        self.home.close()
        for box in self.values():
            box.close()

    # ---- the user ------------------------------------------------------------------------------

    def rbee(self, *words: str, code: int = 0, timeout: float = 100.0) -> str:
        """Run a command, which must end with that code; its stdout, or where it fails stderr."""
        done = self.home.rbee(*words, timeout=timeout)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stderr if code else done.stdout

    def join(self, name: str, *flags: str, target: str = "") -> None:
        """`rbee hive add`, the key accepted."""
        self.rbee("hive", "add", name, target or name, "--accept-new", *flags)

    def ask(self, prompt: str, hive: str | None = None) -> Reader:
        """An echo job, and a reader of its stream."""
        body = {"operation": "infer", "model": "echo", "prompt": prompt, "hive": hive}
        reply = self.home.post("/v1/jobs", body)
        assert reply.status_code == 202, reply.text
        return Reader(self.home.url, reply.json()["job_id"])

    # ---- what the queen says -------------------------------------------------------------------

    def info(self, name: str) -> dict[str, Any]:
        """Of one hive."""
        return self.home.get(f"/v1/hives/{name}")

    def until(self, name: str, *states: str, limit: float = 40.0) -> dict[str, Any]:
        """It is in one of these states."""

        def there() -> dict[str, Any] | None:
            info = self.info(name)
            return info if info["state"] in states else None

        return wait_for(there, limit=limit, what=f"{name} is {states}: {self.info(name)}")

    def workers_on(self, name: str) -> list[dict[str, Any]]:
        """Its workers."""
        return [worker for worker in self.home.workers() if worker["hive"] == name]

    @property
    def queen(self) -> psutil.Process:
        """Her process."""
        assert self.home.state is not None
        return psutil.Process(self.home.state["pid"])

    def queen_busy(self, seconds: float = 3.0) -> float:
        """Which part of one core she takes, measured for so long."""
        queen = self.queen
        before = sum(queen.cpu_times()[:2])
        threading.Event().wait(seconds)
        return (sum(queen.cpu_times()[:2]) - before) / seconds


@contextmanager
def boxes_of(home: Home, folder: Path) -> Generator[Boxes]:
    """For the length of a block, in which a queen may run."""
    boxes = Boxes(home, folder)
    try:
        yield boxes
    finally:
        boxes.close()


def other_rbee(folder: Path, *, protocol: int = OTHER_PROTOCOL) -> Path:
    """The Python of an installation of rbee whose version and protocol are others, and which has
    a setting that this one does not know: hive.motto."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60
    )
    tree = folder / "tree"
    shutil.copytree(ROOT / "rbee", tree / "rbee", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "backends", tree / "rbee" / "backends", dirs_exist_ok=True)
    for file, old, new in (
        ("rbee/__init__.py", '__version__ = "0.1.0"', f'__version__ = "{OTHER_VERSION}"'),
        ("rbee/protocol/__init__.py", "PROTOCOL = 1\n", f"PROTOCOL = {protocol}\n"),
        ("rbee/settings_sections.py", HIVE_SETTINGS, f"{HIVE_SETTINGS}{MOTTO}"),
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
