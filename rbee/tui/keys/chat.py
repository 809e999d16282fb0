"""Keys of the chat."""

from __future__ import annotations

from rbee.tui.actions import Action

SCOPES = {"chat": "Chat", "prompt": "Chat prompt", "messages": "Chat messages"}
ACTIONS = [
    Action(
        "chat.stop", "escape", "stop/leave", "Stop the answer, then leave", "chat", "leave", True
    ),
    Action("chat.new", "ctrl+n", "new", "New chat", "chat", "new_chat", True, True),
    Action("chat.model", "f2", "model", "Choose the model", "chat", "choose_model", True, True),
    Action(
        "chat.again", "ctrl+r", "again", "Ask the last question again", "chat", "again", True, True
    ),
    Action("chat.help", "f1", "help", "Keys of this screen", "chat", "app.help", True),
    Action("chat.send", "enter", "send", "Send", "prompt", "send"),
    Action("chat.newline", "ctrl+j", "newline", "New line", "prompt", "newline"),
    Action("chat.previous", "up", "last", "In an empty prompt: the last one", "prompt", "recall"),
    Action("chat.write", "i,enter", "write", "Back to the prompt", "messages", "screen.write"),
    Action("chat.copy", "y", "copy", "Copy the last answer", "messages", "copy"),
    Action("chat.up", "k,up", "up", "Scroll up", "messages", "scroll_up"),
    Action("chat.down", "j,down", "down", "Scroll down", "messages", "scroll_down"),
    Action("chat.first", "g,home", "first", "To the first message", "messages", "scroll_home"),
    Action("chat.last", "G,end", "last", "To the last message, and follow", "messages", "last"),
    Action("chat.parameters", "f3", "parameters", "Temperature and limits", "chat+", here=False),
]
