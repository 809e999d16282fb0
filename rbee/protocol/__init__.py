"""Everything that goes over a wire, as frozen msgspec structs: one module per conversation.

`operations`: what a client asks the queen to do. `jobs`: the job and its stream. `workers`: queen
or hive ⇄ worker. `hives`: queen ⇄ hive, devices, models. `colony`: the dashboard's event stream.
Decoding is strict; field paths are in the error messages.
"""

PROTOCOL = 1
"""Version of the wire contract; queen, hive and worker must agree."""
