"""docs/performance.md: what stands there beside the tables, and how tables come into it.

The page is made whole when it is not there; in one that is there only what stands between a pair of
markers is replaced.
"""

from __future__ import annotations

from pathlib import Path

Marks = tuple[str, str]
ENGINE: Marks = ("<!-- engine: begin -->", "<!-- engine: end -->")
QUEEN: Marks = ("<!-- queen: begin -->", "<!-- queen: end -->")
SKELETON = f"""# Speed

How fast the llama.cpp worker is beside other programs that run the same model with the same
llama.cpp on the same machine. An absolute figure says little about another machine: read the
ratios. Those with a target are the promises of this version.

`make bench-engine` makes this page's tables again: it builds `llama-server` from the sources inside
the installed llama-cpp-python (once, about 8 minutes on 2 cores), makes the two model files, starts
everything on loopback, and takes about 25 minutes. `make bench-engine ARGS=--quick` gives an
impression in 4 minutes and leaves this page alone; `ARGS=--help` names the rest.

## How it is measured

- Each row is measured in rounds, one server after the other in each round (A B A B …), so that what
  slows the machine slows both. A cell is the median, with the least and the greatest of the rounds.
  *Ratio* is rbee's median by llama-server's; *by rounds* is the median of the ratios of each round.
- The model is SmolLM2-135M-Instruct, quantised to Q4_0 (which llama.cpp repacks for the CPU) and
  Q4_1 (which it does not). All servers have the same number of threads, slots, tokens of context
  for each slot, flash attention, f16 keys and values, prompt caching of one size, and a warm-up.
- Requests go over HTTP and stream, each over a connection made before the clock starts. The client
  notes when bytes come and reads them afterwards. Answers have a fixed length (the end of the text
  is ignored, where the server knows how). *Tokens/s* is all tokens by the time from the first
  request to the last token, the prompts' time included.
- Prompts are made of words drawn anew in each round, so no cache of an earlier round has them.
- llama_cpp.server serves one request at a time and cannot ignore the end of the text: its answers
  may be shorter, which does not raise its rate.
- Memory is that of the server's processes after the same work. PSS divides shared pages, such as
  those of the model file, by their users; RSS counts them whole in each.

## Figures

{ENGINE[0]}
Nothing is recorded here yet: `make bench-engine` writes it.
{ENGINE[1]}

## The queen

What the queen costs beside a program that only passes bytes, how she bears many jobs, streams and
workers, and how soon she is over a death. `make bench` makes the tables below again in about 10
minutes; it needs no model. The first time it installs LiteLLM into a folder of its own under
`bench/.build` (a few minutes; `ARGS=--no-litellm` leaves it out). `make bench ARGS=--quick` gives
an impression and leaves this page alone; `ARGS="--case events"` measures one thing, and so does it.

- *Queen* is a queen in a process of her own, without a hive of hers, with everything on. *Bare
  proxy* is Starlette and aiohttp's client on the same uvicorn with the same options: it sends the
  request on and the bytes back. *LiteLLM* is its proxy with one process, a key, no database and
  errors only in its log. All three stand before one stand-in (`bench/fake_hive.py`) that speaks as
  hives and workers do and computes nothing. All are measured in turn in each round (A B A B …).
- CPU time is user and system time of the proxy's process alone, by the system's own count. It
  hardly depends on what else runs on the machine; latencies and answers a second do.
- The cost of one event is that of long answers less that of short ones, by the events between. Each
  event is a write of its own, 5 ms apart in a stream, so none are taken together. LiteLLM gets a
  fourth of the streams, since it could not keep up.
- For answers a second the proxy is kept on one core, and everything else on another. Where *how
  busy the core was* is far below 100 %, the clients were the limit, and *by CPU time* tells more.
- Deaths are real: workers of the echo backend, killed with SIGKILL, or stopped with SIGSTOP. A
  stream is lost unless its text is whole, each word once.
- Decisions are timed without any I/O, in a colony filled through its own events.

{QUEEN[0]}
Nothing is recorded here yet: `make bench` writes it.
{QUEEN[1]}
"""


def write_page(path: Path, inside: str, marks: Marks) -> None:
    """Put `inside` between the page's markers; the page is made when it is not there."""
    page = path.read_text("utf-8") if path.exists() else SKELETON
    path.write_text(replaced(page, inside, marks), "utf-8")


def replaced(page: str, inside: str, marks: Marks) -> str:
    """The page with other text between the markers. Raises ValueError when they are not there."""
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"the page has no {marks[0]} … {marks[1]}")
    return f"{before}{begin}\n{inside.strip()}\n{end}{after}"
