"""The demo, and the private servers that it and the tests run against.

Owns throwaway processes: an SSH server, a Covalent server, a client. Each has its keys, home and
configuration in one directory of its own, and each is ended for sure. Nothing here is used by the executor.
"""
