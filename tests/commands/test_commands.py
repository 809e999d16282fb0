"""The real `rbee` command: exit codes, streams, and what it says when things are wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from rbee.commands.common import report_defect
from tests.support.home import Home, wait_for


def test_an_empty_prompt_is_a_usage_error_and_starts_nothing(home: Home) -> None:
    done = home.rbee("infer", "--model", "echo", "  ")
    assert done.returncode == 2
    assert "INVALID_REQUEST" in done.stderr
    assert home.state is None


def test_unknown_commands_and_flags_are_usage_errors(home: Home) -> None:
    assert home.rbee("dance").returncode == 2
    assert home.rbee("infer", "--modle", "x", "y").returncode == 2


def test_the_dashboard_needs_a_terminal(home: Home) -> None:
    done = home.rbee()
    assert done.returncode == 2
    assert "--no-tui" in done.stderr


def test_status_without_a_queen_is_1_and_starts_none(home: Home) -> None:
    assert home.rbee("queen", "status").returncode == 1
    done = home.rbee("queen", "status", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"running": False})
    assert home.rbee("queen", "stop").returncode == 255
    assert home.state is None


def test_the_headless_log_can_be_json(home: Home) -> None:
    process = home.start("--no-tui", "--log-format", "json")
    wait_for(lambda: home.state, what="the queen")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    lines = [json.loads(line) for line in home.err(process).splitlines()]
    assert any("listening on http://127.0.0.1" in line["message"] for line in lines)
    assert home.out(process) == ""


def test_listings_in_both_forms(home: Home) -> None:
    assert home.rbee("infer", "-q", "--model", "echo", "hello").returncode == 0
    for noun in ("worker", "job", "model", "hive"):
        table = home.rbee(noun, "list")
        body = home.rbee(noun, "list", "--json")
        assert (table.returncode, body.returncode) == (0, 0)
        rows = json.loads(body.stdout)[f"{noun}s"]
        assert rows
        assert table.stdout.splitlines()[0].startswith(noun.upper())
    job = json.loads(home.rbee("job", "list", "--json").stdout)["jobs"][0]["job_id"]
    shown = home.rbee("job", "show", job)
    assert shown.returncode == 0
    assert "hello" in shown.stdout
    assert home.rbee("job", "cancel", job).returncode == 1
    health = home.rbee("worker", "health", "w-01")
    assert health.returncode == 0
    assert "idle" in health.stdout
    assert home.rbee("worker", "stop", "w-01").returncode == 0
    assert home.workers() == []
    assert home.rbee("worker", "health", "w-01").returncode == 1
    assert "No workers yet" in home.rbee("worker", "list").stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_model_loads_cancels(home: Home, number: signal.Signals) -> None:
    process = home.start("infer", "--model", "echo-stuck", "x")
    wait_for(lambda: "loading" in home.err(process), what="loading is told")
    process.send_signal(number)
    assert process.wait(15) == 128 + number
    assert home.get("/v1/jobs")["jobs"][0]["state"] == "cancelled"


def test_ephemeral_killed_leaves_nothing(home: Home) -> None:
    prompt = "@delay=100 @repeat=500 tick"
    process = home.start("infer", "--ephemeral", "--model", "echo", prompt)
    wait_for(lambda: "tick" in home.out(process), what="a token")
    process.kill()
    process.wait(10)
    home.until_empty(4.0)


def test_a_reader_that_goes_away_is_no_error(home: Home) -> None:
    command = " ".join(home.command("infer", "-q", "--model", "echo", "'@repeat=3000 tick'"))
    done = subprocess.run(
        f"{command} | head -c 5", shell=True, env=home.env, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_narration_cannot_steer_the_terminal(home: Home) -> None:
    done = home.rbee("infer", "--model", "pkg:no\u202esuch", "x")
    assert done.returncode in (1, 2)
    assert "such" in done.stderr
    assert "\u202e" not in done.stderr
    assert home.rbee("infer", "--model", "a\x1b[31mb", "x").returncode == 2


def test_prompts_are_in_no_log(home: Home) -> None:
    secret = "the-bees-know-5371"
    assert home.rbee("infer", "-q", "--model", "echo", secret).returncode == 0
    for log in (home.path / "state" / "logs").iterdir():
        assert secret not in log.read_text("utf-8")


def test_children_get_no_secrets_of_the_users_shell(home: Home) -> None:
    home.env["AWS_SECRET_ACCESS_KEY"] = "sesame"
    home.env["HF_TOKEN"] = "sesame"
    assert home.rbee("infer", "-q", "--model", "echo", "x").returncode == 0
    queen = (home.state or {})["pid"]
    seen: set[str] = set()
    for process in home.processes():
        names = {name for name, value in process.environ().items() if value == "sesame"}
        assert names == ({"HF_TOKEN"} if process.pid == queen else set()), process
        seen.add("queen" if process.pid == queen else "other")
    assert seen == {"queen", "other"}


def test_starting_and_stopping_twice(home: Home) -> None:
    assert home.rbee("queen", "start").returncode == 0
    assert home.rbee("queen", "stop").returncode == 0
    started = home.rbee("queen", "start", "--json")
    assert json.loads(started.stdout)["url"] == home.url
    assert home.rbee("queen", "stop", "--json").returncode == 0
    home.until_empty(2.0)


def test_text_that_is_no_utf8_is_a_usage_error(home: Home) -> None:
    command = [*map(os.fsencode, home.command("infer", "-q", "--model", "echo")), b"caf\xff"]
    done = subprocess.run(
        command, env=home.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "VALIDATION_ERROR" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_defect_shows_no_stack_trace_but_keeps_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBEE_HOME", str(home.path))
    error = report_defect(ZeroDivisionError("division by zero"))
    assert "ZeroDivisionError" in error.message
    kept = home.path / "state" / "logs" / "defects.log"
    assert str(kept) in error.action
    assert "division by zero" in kept.read_text("utf-8")


def test_piped_bytes_that_are_no_utf8_are_a_usage_error_and_start_nothing(home: Home) -> None:
    command = home.command("infer", "--model", "echo")
    done = subprocess.run(
        command, env=home.env, capture_output=True, input=b"caf\xff", timeout=60, check=False
    )
    assert done.returncode == 2
    assert b"VALIDATION_ERROR" in done.stderr
    assert b"Traceback" not in done.stderr
    assert home.state is None


def test_what_the_terminal_cannot_show_becomes_a_question_mark(home: Home) -> None:
    home.env["PYTHONIOENCODING"] = "ascii"
    done = home.rbee("infer", "-q", "--model", "echo", "héé")
    assert (done.returncode, done.stdout.strip()) == (0, "h??")
    assert done.stderr == ""
    piped = home.rbee("infer", "-q", "--model", "echo", "-", stdin="héé")
    assert (piped.returncode, piped.stdout.strip()) == (0, "h??")


@pytest.mark.parametrize("wrong", [b"../workers", b"a\nb", b"\xff", b"..", b"", b"W_1", b"x" * 65])
def test_an_id_that_is_none_is_a_usage_error_and_starts_nothing(home: Home, wrong: bytes) -> None:
    for words in (("job", "show"), ("job", "cancel"), ("worker", "health"), ("worker", "stop")):
        command = [*map(os.fsencode, home.command(*words, "--json")), b"--", wrong]
        done = subprocess.run(command, env=home.env, capture_output=True, timeout=60, check=False)
        assert done.returncode == 2, done
        assert json.loads(done.stdout)["error"]["code"] == "INVALID_REQUEST"
        assert done.stderr == b""
    assert home.state is None


def test_ctrl_c_at_the_very_start_is_130_without_a_trace(home: Home) -> None:
    code = (
        "import os, signal, sys\n"
        "class Early:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == sys.argv[1]:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Early())\n"
        "from rbee.cli import main\n"
        "main(['job', 'show', 'j-1'])\n"
    )
    for module in ("typer", "rbee.commands.jobs", "httpx"):
        done = subprocess.run(
            [sys.executable, "-c", code, module], env=home.env, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (130, "", ""), module


def test_a_cancel_answers_even_when_nothing_is_kept(home: Home) -> None:
    home.env["RBEE_JOB_RETENTION"] = "0"
    assert home.rbee("queen", "start").returncode == 0
    body = {"operation": "infer", "model": "echo-stuck", "prompt": "x"}
    accepted = home.post("/v1/jobs", body).json()
    done = home.rbee("job", "cancel", accepted["job_id"])
    assert (done.returncode, "cancelled" in done.stderr) == (0, True)


def test_log_probabilities_are_printed_with_json_only(home: Home) -> None:
    asked = ("infer", "-q", "--model", "echo", "--logprobs", "1", "one two")
    body = json.loads(home.rbee(*asked, "--json").stdout)
    assert [place["token"] for place in body["logprobs"]] == ["one ", "two"]
    assert body["logprobs"][1]["top"] == [{"token": "two", "bytes": [116, 119, 111], "logprob": 0}]
    assert "logprobs" not in json.loads(home.rbee("infer", "--model", "echo", "--json", "x").stdout)


def test_every_way_to_shape_an_answer_reaches_the_worker(home: Home) -> None:
    (home.path / "bee.json").write_text('{"type": "object"}', "utf-8")
    (home.path / "yes.gbnf").write_text('root ::= "yes"', "utf-8")
    for flag, value, named in (
        ("--json-schema", "bee.json", "json_schema"),
        ("--json-schema", '{"type": "object"}', "json_schema"),
        ("--grammar", "yes.gbnf", "grammar"),
    ):
        done = home.rbee("infer", "-q", "--model", "echo", flag, value, "x")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"VALIDATION_ERROR: {named}" in done.stderr  # echo has no shapes
    quiet = ("--no-cache", "--deterministic", "--presence-penalty", "-1.5", "--frequency-penalty",
             "0.5", "--ignore-eos")  # fmt: skip
    assert home.rbee("infer", "-q", "--model", "echo", *quiet, "x").stdout == "x\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--json-schema", "missing.json"), "cannot be read: No such file"),
        (("--json-schema", "{bad"), "the text is no JSON object: JSON is malformed"),
        (("--json-schema", "[1]"), "is no JSON object"),
        (("--json-schema", "list.json"), "is no JSON object"),
        (("--grammar", "."), "cannot be read"),
        (("--grammar", "latin.gbnf"), "is not UTF-8"),
        (("--grammar", "list.json", "--json-schema", "{}"), "grammar"),
        (("--logprobs", "21"), "'--logprobs'"),
        (("--logprobs", "2"), "Add --json"),
        (("--presence-penalty", "3"), "'--presence-penalty'"),
    ],
)
def test_shapes_that_are_none_start_nothing(home: Home, flags: tuple[str, ...], said: str) -> None:
    (home.path / "list.json").write_text("[]", "utf-8")
    (home.path / "latin.gbnf").write_bytes(b"root ::= \xe9")
    done = home.rbee("infer", "--model", "echo", *flags, "x")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert home.state is None


def test_texts_become_vectors(home: Home) -> None:
    done = home.rbee("embed", "--model", "echo", "a bee", "tax form")
    first, second = done.stdout.splitlines()
    assert first != second
    assert first.startswith("64  ")
    assert first.endswith(" …")
    assert "2 tokens" not in done.stdout
    assert "4 tokens" in done.stderr
    body = json.loads(home.rbee("embed", "-q", "--model", "echo", "--json", "a bee").stdout)
    assert (len(body["vectors"][0]), body["usage"]) == (64, {"prompt_tokens": 2})
    assert sum(x * x for x in body["vectors"][0]) == pytest.approx(1.0)
    lines = home.rbee("embed", "--model", "echo", "--json", "--no-normalize", stdin="a\n\nb b b\n")
    assert [max(map(abs, v)) for v in json.loads(lines.stdout)["vectors"]] == [1, 3]
    assert home.get("/v1/jobs?limit=1")["jobs"][0]["operation"] == "embed"


def test_as_many_vectors_as_one_request_can_ask_for_come_whole(home: Home) -> None:
    texts = "".join(f"text number {n} {'x ' * (n % 7)}\n" for n in range(2048))
    body = json.loads(home.rbee("embed", "-q", "--model", "echo", "--json", stdin=texts).stdout)
    assert len(body["vectors"]) == 2048
    too_many = home.rbee("embed", "-q", "--model", "echo", "--json", stdin=texts + "one more\n")
    assert too_many.returncode == 2


def test_no_text_and_a_model_that_is_none_are_told(home: Home) -> None:
    for texts in (("  ",), ("a", "")):
        done = home.rbee("embed", "--model", "echo", *texts)
        assert (done.returncode, home.state) == (2, None)
    assert "MODEL_NOT_FOUND" in home.rbee("embed", "--model", "nope", "a").stderr


def test_ctrl_c_cancels_vectors_that_are_being_made(home: Home) -> None:
    process = home.start("embed", "--model", "echo", "@hang_after=0 x")
    wait_for(
        lambda: home.state and any(w["slots_busy"] for w in home.workers()), what="a busy worker"
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert home.get("/v1/jobs?limit=1")["jobs"][0]["state"] == "cancelled"
