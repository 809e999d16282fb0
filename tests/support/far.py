"""A second machine of a colony under test: a hive with folders of its own, beside the queen's."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.colony import Colony
from tests.support.home import Home, wait_for


class Far:
    """The hive `name`, whose models and state are under `folder`. `env` is added to its own."""

    def __init__(self, colony: Colony, name: str, folder: Path, **env: str) -> None:
        self.colony, self.name = colony, name
        self.home = Home(folder, **env)
        for key in ("HF_ENDPOINT", "HF_TOKEN"):
            self.home.env.pop(key, None)  # the hub is the queen's business
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Far:
        """Returns when the queen has it."""
        state = self.colony.home.state
        assert state is not None
        command = Path(self.home.command()[0]).with_name("rbee-hive")
        env = self.home.env | {"RBEE_INTERNAL_TOKEN": state["token"]}
        with (self.home.path / f"hive-{self.name}.log").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [str(command), "--port", "0", "--name", self.name, "--queen-url", self.colony.url],
                env=env, stdout=log, stderr=log, text=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.colony.home.adopt(self.process)
        wait_for(lambda: self.name in self.colony.online(), limit=60, what=f"{self.name} joins")
        return self

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def models(self) -> list[Path]:
        """Model files in its folder that are whole."""
        found = (self.home.path / "data" / "models").rglob("*.gguf")
        return [path for path in found if ".partial" not in path.parts]

    def close(self) -> None:
        """After the colony's end."""
        self.home.close()
