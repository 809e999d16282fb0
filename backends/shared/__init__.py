"""What backends share that compute one token after the other themselves.

`engine` answers all requests at once in the slots of one `context` (a protocol: the library's side
of it is the backend's own), `prefixes` reuses prompts that were computed, `pace` says how much of a
prompt goes into a step. `loop` is what other threads touch of an engine, `text_model` what a worker
does of a model. `folder` checks a model's folder before a library reads it. `sampling` chooses
tokens, `text` makes safe text of them, `template` renders chats with a model's `own_template`.
Importing this package is cheap; its modules need numpy and jinja2, and `folder` safetensors.
Nothing here knows any library that computes a model.
"""
