"""Which backend runs a model, why that one, and what is said where none fits."""

from __future__ import annotations

import msgspec
import pytest

from rbee.core.effects import AbortRun, Append, Record, StartWorker
from rbee.core.events import HiveJoined, JobSubmitted
from rbee.core.jobs import Job
from rbee.protocol.hives import Absent, BackendStatus, Capabilities
from rbee.protocol.jobs import ErrorData, EventType
from rbee.protocol.operations import Infer, ModelPreload, WorkerSpawn

from .builders import World, capabilities, device, model, of

LLAMA = BackendStatus(
    name="llamacpp", formats=["gguf"], capabilities=["text-gen"], devices=["cpu"], max_slots=8
)
TORCH = BackendStatus(
    name="torch", formats=["safetensors", "gguf"], capabilities=["text-gen"],
    devices=["cpu", "cuda"], max_slots=8,
)  # fmt: skip
MLX = BackendStatus(
    name="mlx", formats=["safetensors"], capabilities=["text-gen"], devices=["cpu", "metal"],
    max_slots=8,
)  # fmt: skip
NO_TORCH = Absent(
    name="torch", reason="the package torch is not installed",
    action="Install it: pip install 'rbee[torch]'.", formats=["safetensors", "gguf"],
)  # fmt: skip
NO_MLX = Absent(
    name="mlx", reason="the package mlx-lm is not installed",
    action="Install it: pip install 'rbee[mlx]'.", formats=["safetensors"],
)  # fmt: skip
LINUX, MAC = "Linux 6.1 x86_64", "Darwin 24.1.0 arm64"


class Machine(World):
    """A colony whose one hive has what a test says."""

    def __init__(
        self,
        *devices: str,
        backends: tuple[BackendStatus, ...] = (),
        absent: tuple[Absent, ...] = (),
        system: str = LINUX,
        kind: str = "local",
    ) -> None:
        super().__init__()
        self.model = msgspec.structs.replace(
            model(), format="safetensors", path="/tiny", capabilities=["text-gen"]
        )
        caps = capabilities(*map(device, devices))
        self.caps: Capabilities = msgspec.structs.replace(
            caps, backends=list(backends), absent_backends=list(absent), os=system,
            models=[self.model],
        )  # fmt: skip
        self.tell(HiveJoined("home", kind, None, self.caps))

    def ask(self, operation: Infer | WorkerSpawn | ModelPreload) -> list[object]:
        job = Job(
            job_id="j", request=operation, created_at=0.0, queued_mono=self.now, model=self.model
        )
        self.jobs["j"] = job
        return list(self.tell(JobSubmitted(job)))


def infer(**more: str) -> Infer:
    return Infer(model="tiny", prompt="hi", **more)


def backend_of(effects: list[object]) -> tuple[str, str]:
    [start] = [e for e in effects if isinstance(e, StartWorker)]
    return start.spec.backend, start.spec.device


@pytest.mark.parametrize(
    ("system", "devices", "chosen"),
    [
        (LINUX, ("cpu",), ("torch", "cpu")),
        (MAC, ("cpu",), ("mlx", "cpu")),
        (MAC, ("metal:0",), ("mlx", "metal:0")),
    ],
)
def test_safetensors_go_to_mlx_on_a_mac_and_to_torch_elsewhere(system, devices, chosen):
    world = Machine(*devices, backends=(LLAMA, MLX, TORCH), system=system)
    assert backend_of(world.ask(infer())) == chosen


def test_the_device_decides_where_the_liked_one_cannot_use_it():
    world = Machine("cuda:0", backends=(LLAMA, MLX, TORCH), system=MAC)
    effects = world.ask(infer())
    assert backend_of(effects) == ("torch", "cuda:0")
    assert "torch: mlx cannot use cuda:0" in said(effects)


def said(effects: list[object]) -> str:
    [decision] = [e.decision for e in effects if isinstance(e, Record)]
    [option] = [o for o in decision.options if o.kind == "start" and o.passed]
    assert option.backend is not None
    return option.why


def test_a_decision_says_which_backend_and_why():
    world = Machine("cpu", backends=(LLAMA, MLX, TORCH))
    assert said(world.ask(infer())).endswith(
        "torch: runs folders of safetensors on any device; mlx could, too"
    )
    alone = Machine("cpu", backends=(LLAMA, MLX))
    assert said(alone.ask(infer())).endswith(
        "mlx: the only one installed there that runs safetensors"
    )


@pytest.mark.parametrize(
    "operation",
    [
        infer(backend="mlx"),
        WorkerSpawn(model="tiny", backend="mlx"),
        ModelPreload(model="tiny", backend="mlx"),
    ],
)
def test_the_one_that_is_asked_for_is_taken(operation):
    world = Machine("cpu", backends=(LLAMA, MLX, TORCH))
    effects = world.ask(operation)
    assert backend_of(effects) == ("mlx", "cpu")
    if isinstance(operation, Infer):
        assert said(effects).endswith("mlx, as asked")


def test_a_worker_of_another_backend_is_not_given_the_work():
    world = Machine("cpu", backends=(LLAMA, MLX, TORCH))
    world.ask(infer())
    world.bring_up("w-01")
    other = Job(
        job_id="k", request=infer(backend="mlx"), created_at=0.0, queued_mono=world.now,
        model=world.model,
    )  # fmt: skip
    effects = list(world.tell(JobSubmitted(other)))
    assert backend_of(effects) == ("mlx", "cpu")
    [decision] = [e.decision for e in effects if isinstance(e, Record)]
    [bar] = [o for o in decision.options if o.kind == "worker"]
    assert bar.why == "w-01 is run by torch, not mlx as asked"
    assert not of(effects, AbortRun)


def refusal(world: Machine, operation: Infer | WorkerSpawn | None = None) -> ErrorData:
    effects = world.ask(operation or infer())
    [error] = [e.data for e in effects if isinstance(e, Append) and e.type == EventType.ERROR]
    assert isinstance(error, ErrorData)
    return error


@pytest.mark.parametrize(
    ("system", "kind", "command"),
    [
        (LINUX, "local", "Install it: pip install 'rbee[torch]'."),
        (MAC, "local", "Install it: pip install 'rbee[mlx]'."),
        (LINUX, "ssh", "rbee hive install home --extra llamacpp --extra torch"),
        (MAC, "ssh", "rbee hive install home --extra llamacpp --extra mlx"),
        (LINUX, "http", "On home: Install it: pip install 'rbee[torch]'."),
    ],
)
def test_nothing_fitting_is_refused_with_the_command_for_that_machine(system, kind, command):
    world = Machine("cpu", backends=(LLAMA,), absent=(NO_MLX, NO_TORCH), system=system, kind=kind)
    error = refusal(world)
    assert error.code == "BACKEND_UNAVAILABLE"
    assert error.details["suggested_action"] == command
    missing = "mlx" if system == MAC else "torch"
    assert f"backend {missing} is not usable" in error.message


def test_a_machine_with_an_nvidia_card_keeps_what_measures_it():
    world = Machine("cpu", "cuda:0", backends=(LLAMA,), absent=(NO_TORCH,), kind="ssh")
    command = "rbee hive install home --extra llamacpp --extra torch --extra nvidia"
    assert refusal(world).details["suggested_action"] == command


def test_an_asked_one_that_is_absent_or_runs_something_else_is_named():
    world = Machine("cpu", backends=(LLAMA,), absent=(NO_MLX, NO_TORCH))
    absent = refusal(world, infer(backend="mlx"))
    assert absent.code == "BACKEND_UNAVAILABLE"
    assert absent.details["suggested_action"] == "Install it: pip install 'rbee[mlx]'."
    other = refusal(Machine("cpu", backends=(LLAMA, TORCH)), infer(backend="llamacpp"))
    assert other.code == "MODEL_INCOMPATIBLE"
    assert "llamacpp runs gguf, tiny is safetensors" in other.message


def test_one_that_cannot_do_what_the_model_is_for_is_passed_over():
    world = Machine("cpu", backends=(MLX,))
    world.model = msgspec.structs.replace(world.model, capabilities=["embedding"])
    error = refusal(world, WorkerSpawn(model="tiny"))
    assert error.code == "MODEL_INCOMPATIBLE"
    assert "mlx cannot do what tiny is for (embedding)" in error.message
