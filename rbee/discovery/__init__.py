"""Machines that could be added: in the ssh config, on the local network, in a Tailscale network.

What is found is a hint and nothing more: a name and an address to try. Whether it is the machine it
says to be is decided by its host key, when it is added. Waking machines over the network is here,
too, because both speak to what is near.
"""
