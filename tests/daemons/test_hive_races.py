"""A hive's models while something else happens to them: workers that start, folders that move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from rbee.daemons.hive.models import Models
from rbee.errors import Conflict
from rbee.paths import Paths
from rbee.protocol.models import CatalogueFile
from rbee.protocol.workers import WorkerSpec
from rbee.settings import ModelSettings, Settings
from tests.models.orders import order_for
from tests.support.tiny_gguf import llama

pytestmark = pytest.mark.anyio
MODEL = llama().data()


def open_models(home: Path, settings: ModelSettings) -> Models:
    paths = Paths(*(home / name for name in ("config", "data", "state", "cache", "run")))
    paths.ensure()

    async def changed() -> None:
        return

    whole = msgspec.structs.replace(Settings(), models=settings)
    return Models(settings=whole, paths=paths, hive="here", changed=changed, workers=list)


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    made = open_models(tmp_path, ModelSettings(quota_gb=1e-6))
    yield made
    made.close()


async def kept(models: Models, name: str = "m.gguf") -> Path:
    """Where a model of that name is, as a finished download leaves it."""
    order = order_for(None, {name: MODEL})
    path = models.folder / "hf/org/tiny" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(MODEL)
    sha256 = order.files[0].sha256
    await models.publish(order, path, [CatalogueFile(name=name, size=len(MODEL), sha256=sha256)])
    return path


def worker(path: Path) -> WorkerSpec:
    return WorkerSpec(
        worker_id="w-07", model_id="m", model_path=str(path), format="gguf", backend="echo",
        device="cpu", slots=1, ctx=256,
    )  # fmt: skip


async def test_what_a_worker_is_about_to_load_is_neither_deleted_nor_cleared(
    models: Models,
) -> None:
    path = await kept(models)
    with models.starting(worker(path)):
        with pytest.raises(Conflict, match="in use by w-07"):
            await models.delete("org/tiny:m.gguf")
        assert await models.make_room(1) == []
        assert (await models.gc()).models == []
        assert path.exists()
    assert await models.make_room(1) == ["org/tiny:m.gguf"]
    assert not path.exists()


async def test_a_model_of_a_former_models_folder_is_forgotten_and_its_file_left(
    models: Models, tmp_path: Path
) -> None:
    path = await kept(models)
    models.close()
    moved = open_models(tmp_path, ModelSettings(dir=str(tmp_path / "elsewhere")))
    try:
        assert (await moved.resolve("org/tiny:m.gguf")).path == str(path)
        told = await moved.delete("org/tiny:m.gguf")
    finally:
        moved.close()
    assert told.freed == 0
    assert f"{path} is not in {tmp_path / 'elsewhere'} and was left" in told.message
    assert path.exists()
