"""Early: Covalent is imported before any module of ours that it loads as a plugin.

Covalent loads its plugins in the middle of its own import. If one of ours came first and imported
Covalent, Covalent would find it half made. So whoever is first steps aside, lets Covalent load it
whole, and the import system gives that one to everybody. Importing this module does it.
"""

from __future__ import annotations

import sys
from importlib import import_module

_PLUGIN_MODULES = ("plugin", "sshtiming", "localtiming")

if "covalent" not in sys.modules:
    for _name in _PLUGIN_MODULES:
        sys.modules.pop(f"covalent_sshtiming.{_name}", None)
    import_module("covalent")
