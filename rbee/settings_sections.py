"""The tables of the settings file: what there is to set, its bounds, default and documentation.

Owns the form of each setting; never reads one. Where a value comes from is rbee.settings' business.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from rbee import naming
from rbee.protocol.machines import Labels

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
Some = Annotated[float, Meta(gt=0, le=31_536_000)]
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")]
KeepAlive = Seconds | Literal["forever"]
Workers = Annotated[int, Meta(ge=0, le=1000)]
HiveName = Annotated[str, Meta(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the file; a field's description is its documentation."""


class QueenSettings(Section, frozen=True):
    """The brain of the colony, and where commands look for it."""

    host: Annotated[Host, Meta(description="Address the queen listens on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port the queen listens on; 0 takes any free one.")] = (
        8500
    )
    ollama_port: Annotated[
        Port,
        Meta(
            description="Port besides, for programs that look for Ollama: 11434 is its own; 0: off."
        ),
    ] = 0
    linger: Annotated[
        Seconds,
        Meta(description="Seconds without use until a queen leaves that a command had to start."),
    ] = 300.0
    local_hive: Annotated[
        bool, Meta(description="Whether the queen runs the hive of its own machine itself.")
    ] = True
    allowed_origins: Annotated[
        list[str],
        Meta(description="Web pages (`https://host:port`) that may call the queen; no other may."),
    ] = []
    allowed_networks: Annotated[
        list[str],
        Meta(description="Networks whose machines may call (`192.168.1.0/24`); empty: all."),
    ] = []
    allowed_hosts: Annotated[
        list[str],
        Meta(description="Names, besides this machine's own, under which the queen is reached."),
    ] = []
    require_key: Annotated[
        bool, Meta(description="Whether programs on this machine need a key, too, to ask models.")
    ] = False
    tls_cert: Annotated[
        str, Meta(description="Certificate file for HTTPS; empty: that of `rbee cert create`.")
    ] = ""
    tls_key: Annotated[str, Meta(description="Its key file.")] = ""
    request_timeout: Annotated[
        Some, Meta(description="Seconds within which a request must have come whole.")
    ] = 30.0
    usage_days: Annotated[
        int, Meta(ge=0, le=3650, description="Days that `rbee usage` looks back; 0: nothing kept.")
    ] = 90
    queue_capacity: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Jobs that may wait; one more gets QUEUE_FULL.")
    ] = 10_000
    swap_patience: Annotated[
        Seconds,
        Meta(description="Seconds a job waits at most so that others keep a model it displaces."),
    ] = 30.0
    preempt_after: Annotated[
        Some,
        Meta(description="Seconds an interactive job waits until a batch job is put back for it."),
    ] = 10.0
    announce: Annotated[
        bool,
        Meta(
            description="Whether the local network is told of this machine: name, version, SSH key."
        ),
    ] = False
    url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://\S+)?$",
            description="Queen to use instead of one here; empty: find or start one.",
        ),
    ] = ""
    api_key: Annotated[
        str,
        Meta(
            pattern=r"^[!-~]{0,200}$",
            description="Key for the queen at `queen.url`; `RBEE_API_KEY` says the same.",
        ),
    ] = ""
    tls_ca: Annotated[
        str,
        Meta(description="File of the authority that vouches for the queen at `queen.url`."),
    ] = ""


class HiveSettings(Section, frozen=True):
    """The part that runs workers on one machine."""

    name: Annotated[
        HiveName,
        Meta(description="Name of this machine's hive; empty: the machine's short host name."),
    ] = msgspec.field(default_factory=naming.hive_name)
    host: Annotated[
        Host, Meta(description="Address a hive with a process of its own listens on.")
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port of a hive with a process of its own.")] = 9000
    worker_port_base: Annotated[
        int,
        Meta(ge=1024, le=65000, description="First port for workers; a taken one is skipped."),
    ] = 9300
    lease: Annotated[
        Some,
        Meta(
            description="Seconds without its queen after which a hive stops its workers and itself."
        ),
    ] = 60.0
    labels: Annotated[
        Labels,
        Meta(
            description='What is known of this machine: `region = "eu"`, `tier`, `cost_per_hour`, '
            "`watts` or any other name, as text."
        ),
    ] = {}


class WorkerSettings(Section, frozen=True):
    """One process with one model."""

    load_timeout: Annotated[
        Some, Meta(description="Seconds a model may take to load before LOADING_TIMEOUT.")
    ] = 300.0
    keep_alive: Annotated[
        Seconds, Meta(description="Seconds an idle worker is kept; its memory is then given back.")
    ] = 300.0
    heartbeat: Annotated[Some, Meta(description="Seconds between a worker's heartbeats.")] = 2.0
    stale_after: Annotated[
        Some, Meta(description="Seconds without a heartbeat after which a worker gets no new job.")
    ] = 6.0
    remove_after: Annotated[
        Some, Meta(description="Seconds without a heartbeat after which a worker is removed.")
    ] = 30.0
    stop_timeout: Annotated[
        Some, Meta(description="Seconds a worker gets to stop by itself before it is killed.")
    ] = 5.0
    stall_timeout: Annotated[
        Some,
        Meta(description="Seconds a running job may go without any progress before it is ended."),
    ] = 60.0
    slots: Annotated[
        int,
        Meta(
            ge=0,
            le=256,
            description="Requests a worker runs at a time; 0: as many as memory allows, up to 8.",
        ),
    ] = 0
    ctx: Annotated[
        int, Meta(ge=64, le=10_000_000, description="Context of each slot, in tokens.")
    ] = 4096
    kv_type: Annotated[
        Literal["f16", "f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"],
        Meta(description="How a context is kept; `q8_0` takes half the memory of `f16`."),
    ] = "f16"
    flash_attention: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="`off` is slower, but on a CPU no answer then depends on what else runs."),
    ] = "auto"
    max_gap_ms: Annotated[
        float,
        Meta(
            gt=0,
            le=600_000,
            description="Milliseconds that running answers may be held up by a long new prompt.",
        ),
    ] = 200.0
    prompt_cache_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1_048_576,
            description="MiB of memory a worker keeps computed prompts in for later; 0: none.",
        ),
    ] = 256


class JobSettings(Section, frozen=True):
    """How often jobs are tried, and what is remembered of those that have ended."""

    attempts: Annotated[
        int,
        Meta(ge=1, le=100, description="Times a job is tried at most when workers are lost."),
    ] = 5
    retention: Annotated[
        Seconds,
        Meta(
            description="Seconds a finished job and its stream can be read; 0: gone when finished."
        ),
    ] = 86400.0
    finished_kept: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Finished jobs kept at most.")
    ] = 1000


class ModelSettings(Section, frozen=True):
    """Names for models, where they are kept, and how their workers are."""

    aliases: Annotated[
        dict[str, str],
        Meta(description='Short names of your own: `name = "file:/models/some.gguf"`.'),
    ] = {}
    keep_alive: Annotated[
        dict[str, KeepAlive],
        Meta(description='Seconds, or "forever", in place of worker.keep_alive: `name = 60`.'),
    ] = {}
    min_workers: Annotated[
        dict[str, Workers],
        Meta(description="Workers of a model that are always kept up: `name = 1`."),
    ] = {}
    max_workers: Annotated[
        dict[str, Workers], Meta(description="Workers of a model at most: `name = 2`.")
    ] = {}
    dir: Annotated[
        str,
        Meta(
            pattern=r"^(/[^\x00-\x1f]*)?$",
            description="Folder for models; empty: `models` in the data folder.",
        ),
    ] = ""
    quota_gb: Annotated[
        float,
        Meta(
            ge=0,
            le=1_000_000,
            description="GB the models folder may hold: the least recently used go first; 0: any.",
        ),
    ] = 0.0
    bandwidth_mb: Annotated[
        float,
        Meta(ge=0, le=100_000, description="MB a second that downloads may take; 0: all there is."),
    ] = 0.0
    transfers: Annotated[
        int, Meta(ge=1, le=16, description="Files of a model that are fetched at a time.")
    ] = 4
    stall_timeout: Annotated[
        Some, Meta(description="Seconds a download may bring nothing before it is begun anew.")
    ] = 60.0


class TuiSettings(Section, frozen=True):
    """The screen."""

    theme: Annotated[
        str, Meta(description="Colour theme; `auto`: light or dark as the terminal is.")
    ] = "honey-dark"
    density: Annotated[
        Literal["roomy", "compact"], Meta(description="Space around what panels show.")
    ] = "compact"
    animations: Annotated[
        bool, Meta(description="Whether anything moves that does not have to.")
    ] = True
    refresh: Annotated[
        float, Meta(ge=0.2, le=60, description="Seconds between two looks at what is on screen.")
    ] = 1.0
    graphs: Annotated[
        Literal["blocks", "braille", "ascii"], Meta(description="What graphs are drawn with.")
    ] = "blocks"
    ascii: Annotated[
        bool, Meta(description="Draw with plain ASCII, for terminals without line characters.")
    ] = False
    vim: Annotated[
        bool,
        Meta(description="Keys of vim besides ours: `ctrl+d ctrl+u` in lists, `h l 0 $` in texts."),
    ] = False


class LogSettings(Section, frozen=True):
    """What daemons write about themselves."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least weight logged.")
    ] = "info"
    format: Annotated[
        Literal["text", "json"], Meta(description="`text` for people, `json` for machines.")
    ] = "text"
