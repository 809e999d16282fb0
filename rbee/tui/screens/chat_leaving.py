"""ChatLeaving: what leaves a chat, to the clipboard or to a file where rbee was started."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio.to_thread

from rbee.access.keys import looks_like_key
from rbee.access.presented import for_url
from rbee.errors import RbeeError
from rbee.tui import chat_exports
from rbee.tui.screens.chat_answers import ChatAnswers


class ChatLeaving(ChatAnswers):
    """Copies answers, code and commands; writes conversations as markdown or JSON."""

    def action_save(self) -> None:
        """Write the conversation as markdown, in the folder rbee was started in."""
        self.export("md")

    def action_copy_answer(self) -> None:
        """The answer to the clipboard; thoughts only when there is nothing else."""
        here = self.chat.here
        parts = None if here is None else here.answer.counts.parts()
        self._copy("answer", parts and (parts.said or parts.thought))

    def action_copy_code(self) -> None:
        """The last block of code of the answer."""
        here = self.chat.here
        self._copy("code", here and chat_exports.last_code(here.answer.counts.said()))

    def action_copy_curl(self) -> None:
        """The question as a command line, by the OpenAI route."""
        here, url = self.chat.here, self.rbee.store.address or self.rbee.store.url
        if here is not None and url is not None:
            keyed = looks_like_key(for_url(self.rbee.store.url or url).now())
            command = chat_exports.curl(url, self.dialogue, here, here.answer, keyed=keyed)
            self._copy("curl command", command)

    def export(self, ending: str) -> None:
        """Write the conversation as `md` or `json`; what is there is never replaced."""
        if not self.dialogue.exchanges:
            self.rbee.notify("Nothing was said in this chat yet.", markup=False)
            return
        self.run_worker(self._written_out(ending), exit_on_error=True)

    async def _written_out(self, ending: str) -> None:
        chat, now = self.dialogue, self.now()
        content = chat_exports.markdown(chat) if ending == "md" else chat_exports.as_json(chat)
        write = partial(chat_exports.write_new, title=chat.title, ending=ending, content=content)
        try:
            path = await anyio.to_thread.run_sync(lambda: write(Path.cwd(), now=now))
        except (RbeeError, FileNotFoundError) as exc:
            self.rbee.toast(exc if isinstance(exc, RbeeError) else chat_exports.no_folder())
            return
        self.rbee.notify(f"written to {path}", timeout=8, markup=False)

    def _copy(self, what: str, text: str | None) -> None:
        if text:
            self.rbee.copy_to_clipboard(text)
            self.rbee.notify(f"{what} copied", timeout=3, markup=False)
        else:
            self.rbee.notify(f"There is no {what} here yet.", timeout=3, markup=False)
