"""The verbs of the `covalent-sshtiming` command: a module each, with one click command of its name."""
