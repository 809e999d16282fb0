"""The simulator: the very same brain in virtual time, with machines that exist on paper only.

Owns the paper: fleets, traces, the law by which simulated machines are fast or slow, and the
figures. Never a decision of the brain's, which is rbee.core's and is run here as it stands.
"""
