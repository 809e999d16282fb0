"""Keys of the chat."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {
    "chat": "Chat",
    "prompt": "Chat prompt",
    "messages": "Chat messages",
    "session": "List of chats",
}
ACTIONS = [
    Action("chat.write", "i,enter", "write", "Back to the prompt", "messages", "screen.write"),
    Action("chat.copy", "y", "copy", "Copy the answer", "messages", "screen.copy_answer", True),
    Action("chat.curl", "Y", "curl", "Copy as a curl command", "messages", "screen.copy_curl"),
    Action("chat.code", "c", "code", "Copy its last code block", "messages", "screen.copy_code"),
    Action("chat.edit", "e", "edit", "Edit the question, ask it", "messages", "screen.edit", True),
    Action(
        "chat.retry", "r", "elsewhere", "Retry on another worker", "messages", "screen.retry", True
    ),
    Action(
        "chat.thoughts", "t", "thoughts", "Unfold or fold thoughts", "messages", "thoughts", True
    ),
    Action(
        "chat.left", "left", "left", "Keep the left answer, or the one before", "messages",
        "screen.keep(-1)",
    ),
    Action(
        "chat.right", "right", "right", "Keep the right answer, or the next", "messages",
        "screen.keep(1)",
    ),
    Action("chat.up", "k", "before", "To the question before", "messages", "previous_turn"),
    Action("chat.down", "j", "next", "To the next question", "messages", "next_turn"),
    Action("chat.line_up", "up", "up", "Scroll up", "messages", "line_up"),
    Action("chat.line_down", "down", "down", "Scroll down", "messages", "line_down"),
    Action("chat.first", "g,home", "first", "To the first message", "messages", "first"),
    Action("chat.last", "G,end", "last", "To the last message, and follow", "messages", "last"),
    Action("chat.open", "enter", "open", "Open the chat", "session", "screen.open_listed", True),
    Action("chat.name", "e", "name", "Give the chat a name", "session", "screen.name_listed", True),
    Action(
        "chat.delete", "delete", "delete", "Delete the chat (asks)", "session",
        "screen.delete_listed", True,
    ),
    Action("chat.list_down", "j,down", "next", "Next chat", "session", "move(1)"),
    Action("chat.list_up", "k,up", "before", "Chat before", "session", "move(-1)"),
    Action(
        "chat.stop", "escape", "stop/leave", "Stop the answer, then leave", "chat", "leave", True
    ),
    Action("chat.new", "ctrl+n", "new", "New chat", "chat", "new_chat", True, True),
    Action("chat.model", "f2", "model", "Choose the model", "chat", "choose_model", True, True),
    Action(
        "chat.again", "ctrl+r", "again", "Another answer to the last one", "chat", "again",
        True, True,
    ),
    Action("chat.help", "f1", "help", "Keys of this screen", "chat", "app.help", True),
    Action(
        "chat.parameters", "f3", "parameters", "System prompt, temperature and limits", "chat",
        "parameters", palette=True,
    ),
    Action("chat.list", "f4", "chats", "The list of chats", "chat", "chats", palette=True),
    Action(
        "chat.compare", "f5", "compare", "Ask two models the same", "chat", "compare", palette=True
    ),
    Action(
        "chat.save", "ctrl+s", "save", "Write this chat as markdown", "chat", "save", palette=True
    ),
    Action("chat.send", "enter", "send", "Send", "prompt", "send"),
    Action("chat.newline", "ctrl+j", "newline", "New line", "prompt", "newline"),
    Action("chat.previous", "up", "last", "In an empty prompt: the last one", "prompt", "recall"),
    Action("chat.complete", "tab", "complete", "Complete a command", "prompt", "complete"),
]  # fmt: skip
