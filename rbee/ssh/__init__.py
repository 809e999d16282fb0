"""Other machines over SSH: who they are, a connection each, commands, files, forwards, rbee there.

Only the queen uses it. asyncssh takes 190 ms to import: `login` and `sending` import it on top and
are themselves imported where a connection is made; the other modules do so inside functions.
"""
