"""Where rbee keeps its files: one place for each kind, by the platform's conventions.

Owns the layout of folders and file names, and how a file is replaced; what a file holds is others'.

    config   config.toml, ui.toml, themes/     what the user wrote
    data     rbee.db, keys.json, tls/, models/ what must not be lost
    state    queen.json, owner.token, logs/    what runs now, and what it said
    cache    partial downloads                 may be deleted at any time
    runtime  sockets                           gone after a restart of the machine
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rbee.errors import Forbidden, SettingsError


@dataclass(frozen=True)
class Paths:
    """The five folders, and every file that has a fixed place in them."""

    config: Path
    data: Path
    state: Path
    cache: Path
    runtime: Path
    machine_config: Path | None = None
    """Settings file of the whole machine, weaker than the user's own; None: not to be read."""

    @staticmethod
    def user(env: Mapping[str, str] = os.environ) -> Paths:
        """This user's folders; `RBEE_HOME` puts all five under one folder.

        Raises SettingsError when RBEE_HOME is not an absolute path.
        """
        if home := env.get("RBEE_HOME"):
            root = Path(home)
            if not root.is_absolute():
                raise SettingsError(
                    f"RBEE_HOME: {home!r} is not an absolute path",
                    action="Give the folder from the root on, or unset RBEE_HOME.",
                )
            return Paths(*(root / name for name in ("config", "data", "state", "cache", "run")))
        from platformdirs import PlatformDirs  # 8 ms, and not needed with RBEE_HOME

        dirs = PlatformDirs("rbee", appauthor=False)
        linux = sys.platform.startswith("linux")
        # platformdirs warns on stderr and falls back to /tmp where no session made a runtime folder
        lost = linux and not env.get("XDG_RUNTIME_DIR")
        return Paths(
            dirs.user_config_path,
            dirs.user_data_path,
            dirs.user_state_path,
            dirs.user_cache_path,
            dirs.user_state_path / "run" if lost else dirs.user_runtime_path,
            machine_config=Paths.system().config_file,
        )

    @staticmethod
    def system() -> Paths:
        """The whole machine's folders: /etc, /var, /run on Linux, elsewhere the platform's."""
        if sys.platform.startswith("linux"):
            var = Path("/var/lib/rbee")
            return Paths(
                Path("/etc/rbee"), var, var / "state", Path("/var/cache/rbee"), Path("/run/rbee")
            )
        from platformdirs import PlatformDirs

        dirs = PlatformDirs("rbee", appauthor=False)
        data = dirs.site_data_path
        return Paths(
            dirs.site_config_path,
            data,
            data / "state",
            dirs.site_cache_path,
            dirs.site_runtime_path,
        )

    @property
    def config_file(self) -> Path:
        """The settings."""
        return self.config / "config.toml"

    @property
    def ui_file(self) -> Path:
        """What the screen remembers (theme, layout)."""
        return self.config / "ui.toml"

    @property
    def themes_dir(self) -> Path:
        """The user's own themes."""
        return self.config / "themes"

    @property
    def state_file(self) -> Path:
        """Which queen runs: address, pid, version."""
        return self.state / "queen.json"

    @property
    def owner_file(self) -> Path:
        """By what the queen knows her owner's commands; see rbee.access.keys."""
        return self.state / "owner.token"

    @property
    def keys_file(self) -> Path:
        """API keys, as hashes."""
        return self.data / "keys.json"

    @property
    def usage_file(self) -> Path:
        """What was used, by key, app and model."""
        return self.data / "usage.db"

    @property
    def tls_dir(self) -> Path:
        """What `rbee cert create` makes."""
        return self.data / "tls"

    @property
    def lock_file(self) -> Path:
        """Held by the running queen, so that there is one."""
        return self.state / "queen.lock"

    @property
    def logs_dir(self) -> Path:
        """Logs of the queen and of every worker."""
        return self.state / "logs"

    @property
    def queen_log(self) -> Path:
        """Log of a queen that runs in the background."""
        return self.logs_dir / "queen.log"

    @property
    def database(self) -> Path:
        """Jobs and their streams."""
        return self.data / "rbee.db"

    @property
    def chats_dir(self) -> Path:
        """Conversations of the chat screen."""
        return self.data / "chats"

    @property
    def models_dir(self) -> Path:
        """Model files that rbee fetched."""
        return self.data / "models"

    def ensure(self) -> None:
        """Make the folders, for their owner only (0700). Raises Forbidden naming the folder."""
        for folder in (
            self.config,
            self.data,
            self.state,
            self.cache,
            self.runtime,
            self.logs_dir,
            self.models_dir,
        ):
            make_private(folder)


def replace_private(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, for its owner only (0600), on disk when this returns.

    Its folder is made as `make_private` does. Raises Forbidden as that does, and OSError; what was
    there before is then still there, and nothing else is. A process that is killed meanwhile may
    leave its half, `.NAME.….new`, beside it.
    """
    import tempfile  # 4 ms

    make_private(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def make_private(folder: Path) -> None:
    """Make one folder with mode 0700 unless it is there. Raises Forbidden naming it, also where any
    user may put files in the place of ours."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        open_to_all = folder.stat().st_mode & 0o002
    except (PermissionError, FileExistsError, NotADirectoryError) as exc:
        raise Forbidden(
            f"{folder} cannot be made: {exc.strerror}",
            action="Give this user the right to write there, or choose a folder with RBEE_HOME.",
            path=str(folder),
        ) from exc
    if open_to_all:
        raise Forbidden(
            f"any user of this machine may write in {folder}",
            action=f"Take that right away: chmod 700 {folder}. Or choose a folder with RBEE_HOME.",
            path=str(folder),
        )
