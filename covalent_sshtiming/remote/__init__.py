"""The far end: everything in this package travels to the remote machine, byte for byte.

Standard library only, parses on Python 3.6, runs on 3.8 to 3.13. On the far side the package is
called `covalent_sshtiming_remote`, so it never shadows an installed covalent_sshtiming; hence
relative imports only. The near end imports `wire` (and names from `places`) from here, so the
two ends cannot drift apart.
"""
