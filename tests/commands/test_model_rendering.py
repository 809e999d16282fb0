"""How models, searches and transfers look, at 80 and at 160 columns and in a pipe."""

from __future__ import annotations

import pytest

from rbee import model_words
from rbee.commands import fetching, keeping, models, searching, tables
from rbee.protocol.hives import Device, HiveInfo, ModelInfo
from rbee.protocol.models import (
    CatalogueEntry,
    CatalogueFile,
    Choice,
    DownloadInfo,
    ForeignModel,
    FoundModel,
    GarbageReport,
    HeldModel,
    Search,
    TransferState,
    Verified,
)
from rbee.settings import Settings

WIDTHS = (80, 160)
MB, GB = 10**6, 10**9
REPO = "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"


def choice(quant: str | None, megabytes: int, **more: object) -> Choice:
    ref = f"hf:{REPO}:{quant}" if quant else f"hf:{REPO}"
    told = {"ref": ref, "quant": quant, "size": megabytes * MB, "files": 1, **more}
    return Choice(**told)  # pyright: ignore[reportArgumentType]


def repository(*choices: Choice, **more: object) -> FoundModel:
    told = {
        "repo": REPO, "task": "text-generation", "downloads": 1_234_567, "likes": 12,
        "gated": False, "updated_at": None, "format": "gguf", "choices": list(choices), **more,
    }  # fmt: skip
    return FoundModel(**told)  # pyright: ignore[reportArgumentType]


def device(name: str, kind: str, total: int, free: int) -> Device:
    return Device(
        name=name, kind=kind, label=name, memory_total=total, memory_used=total - free,
        memory_free=free,
    )  # fmt: skip


def hive(name: str, *devices: Device, online: bool = True) -> HiveInfo:
    return HiveInfo(
        name=name, kind="local", url=None, online=online, version="0", hostname=name,
        devices=list(devices), absent_devices=[], backends=[], absent_backends=[],
        last_seen_at=None,
    )  # fmt: skip


def held(**more: object) -> HeldModel:
    info = {
        "id": f"{REPO}:Q4_K_M", "ref": f"hf:{REPO}@{'a' * 40}::m.gguf", "path": "/m.gguf",
        "format": "gguf", "size": 4_920 * MB, "architecture": "llama", "quant": "Q4_K_M",
        "parameters": 8_030_000_000, "context": 131072, "weights_bytes": 4_900 * MB,
        "kv_bytes_per_token": 131072, "capabilities": ["text-gen"], "digest": "sha256:" + "b" * 64,
    }  # fmt: skip
    entry = CatalogueEntry(
        id=str(info["id"]), provider="hf", ref=str(info["ref"]), asked=["llama-3.1-8b"],
        revision="a" * 40, path="/models/hf/x/m.gguf", size=4_920 * MB, format="gguf",
        template=True, files=[CatalogueFile(name="m.gguf", size=4_920 * MB, sha256="b" * 64)],
        downloaded_at=1000.0, used_at=1000.0,
    )  # fmt: skip
    told = {
        "model": ModelInfo(**info), "hives": ["home", "gaming-pc"], "workers": 2, "entry": entry,
        **more,
    }  # fmt: skip
    return HeldModel(**told)  # pyright: ignore[reportArgumentType]


def fits(lines: list[str], width: int) -> bool:
    return all(len(line) <= width for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_list_keeps_names_whole(width: int) -> None:
    small = held(model=ModelInfo(id="tiny", ref="pkg:tiny", path="/t", format="gguf", size=9))
    lines = models.listed([held(), small], width=width, now=4600.0)
    assert fits(lines, width)
    text = "\n".join(lines)
    assert lines[0].startswith("MODEL")
    assert f"{REPO}:Q4_K_M" in text
    for told in ("4.9 GB", "131072", "home, gaming-pc", "2 workers", "1 h 00 min ago", "tiny"):
        assert told in text, text
    assert len(lines) == (3 if width == 160 else 6)


def test_a_pipe_gets_one_line_a_model() -> None:
    assert len(models.listed([held()] * 3, width=None, now=0.0)) == 4


@pytest.mark.parametrize("width", WIDTHS)
def test_a_search_says_what_fits_where_and_how_to_fetch_it(width: int) -> None:
    many = [f"machine-{n} cuda:0" for n in range(12)]
    found = repository(
        choice("Q8_0", 8540, need_bytes=10 * GB, too_big=["home cpu"]),
        choice("Q4_K_M", 4920, need_bytes=6 * GB, fits=many, too_big=["home cpu"]),
        choice("Q5_K_M", 5730, need_bytes=7 * GB, fits=["gaming-pc cuda:0"]),
        parameters=8_030_000_000,
        gated=True,
    )
    lines = searching.told(
        Search(query="llama", endpoint="https://hub", models=[found, found]), width=width
    )
    assert fits(lines, width)
    text = "\n".join(lines)
    assert text.count(f"\n  rbee model download hf:{REPO}:Q4_K_M\n") == 1
    assert text.endswith(f"  rbee model download hf:{REPO}:Q4_K_M")
    assert "text-generation · gguf · 8.0 B parameters · 1.2 M downloads · gated" in text
    rows = [line.split() for line in lines[2:6]]
    assert rows[0] == ["QUANT", "SIZE", "NEEDS", "FITS"]
    assert [row[0] for row in rows[1:]] == ["Q4_K_M", "Q5_K_M", "Q8_0"]
    assert "machine-0 cuda:0" in lines[3]
    assert f"{'and 10' if width == 80 else 'and 6'} more" in lines[3]
    assert "too big for home cpu" in lines[5]


def test_what_is_there_is_used_and_not_fetched() -> None:
    lines = searching.repository(
        repository(choice("Q4_K_M", 9, fits=["a cpu"]), choice("Q8_0", 18, here=["home"])), width=80
    )
    assert lines[-1] == f'  rbee infer --model hf:{REPO}:Q8_0 "…"'
    assert "here: home" in lines[-2]


def test_what_fits_nowhere_has_no_command() -> None:
    lines = searching.repository(repository(choice("Q4_K_M", 9, too_big=["a cpu"])), width=80)
    assert "none of it fits" in lines[-1]
    assert not any("rbee model download" in line for line in lines)
    assert "nothing in it" in searching.repository(repository(), width=80)[-1]


def test_what_no_backend_runs_has_no_command() -> None:
    lines = searching.repository(repository(choice(None, 9)), width=80)
    assert "no machine here runs this kind of file" in lines[3]
    assert lines[-1] == "  none of it can run on a machine of this colony"


@pytest.mark.parametrize("width", WIDTHS)
def test_files_that_tell_no_quantisation_have_their_names(width: int) -> None:
    two = [
        choice(None, 9, ref=f"hf:{REPO}@{'a' * 40}::gguf/{name}-{'x' * 60}.gguf", fits=["a cpu"])
        for name in ("alpha", "beta")
    ]
    lines = searching.repository(repository(*two), width=width)
    assert [line.split()[0][:4] for line in lines[3:5]] == ["alph", "beta"]
    assert fits(lines[:-1], width)


def test_a_need_that_is_not_known_is_told_as_the_least() -> None:
    sized = [choice(q, 9, need_bytes=1_500 * MB, need_at_least=q == "F16") for q in ("Q8_0", "F16")]
    lines = searching.repository(repository(*sized), width=80)
    assert "9 MB  1.5 GB" in lines[3]
    assert "9 MB  ≥ 1.5 GB" in lines[4]


def test_a_file_in_parts_is_listed_and_not_offered() -> None:
    parts = choice("Q4_K_M", 9, files=3, fits=["a cpu"])
    lines = searching.repository(repository(parts, choice("Q8_0", 18, fits=["a cpu"])), width=80)
    assert "in 3 files" in lines[3]
    assert lines[-1] == f"  rbee model download hf:{REPO}:Q8_0"
    folder = choice(None, 9, files=3, fits=["a cpu"])
    assert model_words.recommended([folder]) is folder
    assert model_words.recommended([parts]) is None


def test_a_search_shows_the_usual_choices_and_where_the_others_are() -> None:
    odd = [choice(f"IQ{n}_XS", n) for n in range(1, 10)]
    usual = [choice(quant, 100 + n) for n, quant in enumerate(model_words.USUAL)]
    lines = searching.repository(repository(*odd, *usual), width=80, shown=searching.SHOWN)
    told = [line.split()[0] for line in lines[3 : 3 + searching.SHOWN]]
    assert told == list(model_words.USUAL)
    assert f"  … and 9 more: rbee model show hf:{REPO}" in lines
    every = searching.repository(repository(*odd, *usual), width=80)
    assert len(every) == 3 + len(odd) + len(usual) + 1


@pytest.mark.parametrize("width", WIDTHS)
def test_a_model_is_shown_in_sections_with_its_memory(width: int) -> None:
    hives = [
        hive("home", device("cpu", "cpu", 8 * GB, 7 * GB), device("cuda:0", "cuda", 4 * GB, GB)),
        hive("gone", device("cpu", "cpu", 99 * GB, 99 * GB), online=False),
        hive("big", device("cpu", "cpu", 64 * GB, GB)),
    ]
    one = held()
    memory = models.needs(one.model, hives, Settings())
    assert [(m.hive, m.device, m.verdict) for m in memory] == [
        ("home", "cpu", "fits"),
        ("home", "cuda:0", "too big"),
        ("big", "cpu", "fits when other work has ended"),
    ]
    lines = models.shown(one, memory, width=width)
    for section in ("what it is", "where it is", "files"):
        assert section in lines
    text = "\n".join(lines)
    for told in ("llama, 8.0 B parameters", "with a chat template", "llama-3.1-8b", "the hub",
                 "home, gaming-pc", "2 workers", "so it".upper(), "context of 4096"):  # fmt: skip
        assert told in text, text
    assert lines[-1] == f'rbee infer --model {REPO}:Q4_K_M "…"'
    for word in ("home cpu", "too big", "4.9 GB", "m.gguf"):
        assert word in text


def test_a_model_of_another_program_says_so() -> None:
    mine = CatalogueEntry(
        id="x", provider="ollama", ref="file:/o", path="/o", size=1, format="gguf", linked=True
    )
    text = "\n".join(models.shown(held(entry=mine, workers=0), [], width=80))
    assert "Ollama" in text
    assert "deleting it here leaves it" in text
    assert "by no worker" in text
    assert "memory" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_transfers_have_their_figures(width: int) -> None:
    one = DownloadInfo(
        download_id="1", ref="r", model_id=f"{REPO}:Q4_K_M", state=TransferState.RUNNING,
        bytes_done=412 * MB, bytes_total=986 * MB, rate=38 * MB, eta_seconds=15.0, hive="home",
        message="the connection was cut; again in 2 s (3 of 6)",
    )  # fmt: skip
    empty = DownloadInfo(
        download_id="2", ref="s", model_id="s", state=TransferState.WAITING, bytes_done=0,
        bytes_total=0,
    )  # fmt: skip
    lines = fetching.on_their_way([one, empty], width=width)
    assert fits(lines, width)
    text = "\n".join(lines)
    for told in (f"{REPO}:Q4_K_M", "412 MB of 986 MB", "42%", "38 MB/s", "15 s", "waiting"):
        assert told in text


@pytest.mark.parametrize("width", WIDTHS)
def test_what_others_keep(width: int) -> None:
    told = [
        ForeignModel(name="llama3.2:3b", provider="ollama", path="/o/blobs/sha256-1", size=2 * GB,
                     format="gguf", quant="Q4_K_M"),
        ForeignModel(name="org/repo/m.gguf", provider="lmstudio", path="/l/m.gguf", size=GB,
                     format="gguf", known_as="org/repo"),
        ForeignModel(name="cut", provider="hf-cache", path="/h", size=1, format="gguf",
                     problem="it ends too early"),
    ]  # fmt: skip
    lines = keeping.foreign(told, width=width)
    assert fits(lines, width)
    text = "\n".join(lines)
    for word in ("llama3.2:3b", "Ollama", "LM Studio", "the hub cache", "2.0 GB",
                 "can be taken in", "here as org/repo", "it ends too early"):  # fmt: skip
        assert word in text


def test_checks_and_clearing_are_told_with_amounts() -> None:
    good = Verified(model="m", hive="home", files=2, bytes=5 * GB, hashed=2)
    assert keeping.verified(good) == ["m on home: 2 files, 5.0 GB; all as they should be"]
    half = Verified(model="m", hive="home", files=2, bytes=5 * GB, hashed=1)
    assert "1 with a known hash, 1 with none to compare" in keeping.verified(half)[0]
    bad = Verified(
        model="m", hive="home", files=1, bytes=1, hashed=1, problems=["x.gguf: other hash"]
    )
    told = keeping.verified(bad)
    assert told[0].endswith("1 file, 1 B, 1 problem")
    assert told[1] == "  x.gguf: other hash"
    assert "rbee model delete m --hive home" in told[2]
    report = GarbageReport(
        partial=["org/a"], models=["org/b"], orphans=["notes.txt"], freed=3 * GB, dry_run=True,
        quota=20 * GB,
    )  # fmt: skip
    lines = keeping.garbage("home", report)
    assert lines[0] == "home: 3.0 GB would be freed; the folder may hold 20.0 GB"
    assert [line.split()[-1] for line in lines[1:3]] == ["org/a", "org/b"]
    assert lines[3].endswith("notes.txt  (left alone)")
    clean = GarbageReport(partial=[], models=[], orphans=[], freed=0, dry_run=False)
    assert keeping.garbage("home", clean) == ["home: nothing to clear away"]


def test_control_characters_from_a_hub_never_reach_the_terminal() -> None:
    evil = repository(
        choice("Q4\x1b[31m", 9, fits=["\u202ehome cpu"]), repo="a/\x1b]0;x\x07b", task="\x1b[2J"
    )
    one = held(hives=["h\x1b[1m"], entry=None)
    row = DownloadInfo(
        download_id="1", ref="r", model_id="m\x1b[2J", state=TransferState.FAILED, bytes_done=1,
        bytes_total=1, message="no\nway\x9b",
    )  # fmt: skip
    strange = ForeignModel(name="\x1b[A", provider="x\x07", path="/", size=1, format="\x1b")
    report = GarbageReport(partial=["\x1b"], models=["\x07"], orphans=["\u202e"], freed=0,
                           dry_run=False)  # fmt: skip
    told = [
        *searching.repository(evil, width=80), *models.shown(one, [], width=80),
        *models.listed([one], width=80, now=0.0), *fetching.on_their_way([row], width=80),
        *keeping.foreign([strange], width=80), *keeping.garbage("home", report),
    ]  # fmt: skip
    assert all(line.isprintable() for line in told), told


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0"), (999, "999"), (1000, "1.0 k"), (12_345, "12 k"), (999_499, "999 k"),
     (999_500, "1.0 M"), (8_030_000_000, "8.0 B"), (10**15, "1000 T")],
)  # fmt: skip
def test_counts(number: int, told: str) -> None:
    assert model_words.count(number) == told


def test_names_are_counted_where_they_do_not_fit() -> None:
    assert tables.names(["a", "b", "c"], None) == "a, b, c"
    assert tables.names(["aaaa", "bbbb", "cccc"], 16) == "aaaa, bbbb, cccc"
    assert tables.names(["aaaa", "bbbb", "cccc"], 15) == "aaaa and 2 more"
    assert tables.names(["aaaaaaaaaaaaaaaaaaaa", "b"], 5) == "aaaaaaaaaaaaaaaaaaaa and 1 more"
    assert tables.names([], 5) == ""


def test_foreign_models_are_named_as_listed_or_by_path() -> None:
    known = [
        ForeignModel(name="a", provider="ollama", path="/x/a", size=1, format="gguf"),
        ForeignModel(name="b", provider="ollama", path="/x/b", size=1, format="gguf", problem="no"),
        ForeignModel(name="c", provider="ollama", path="/x/c", size=1, format="gguf"),
        ForeignModel(name="c", provider="lmstudio", path="/y/c", size=1, format="gguf"),
    ]
    assert keeping.resolve("a", known, local=True) == "/x/a"
    assert keeping.resolve("/z/m.gguf", known, local=False) == "/z/m.gguf"
    assert keeping.resolve("m.gguf", known, local=True).startswith("/")
    for name, local in (("b", True), ("c", True), ("m.gguf", False)):
        with pytest.raises(keeping.InvalidRequest):
            keeping.resolve(name, known, local=local)
