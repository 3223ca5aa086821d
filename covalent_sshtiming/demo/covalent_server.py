"""A Covalent server in the foreground, on a port that it picks itself.

Started as a script by `dispatcher`, with the private configuration in its environment. `covalent start`
would put the server behind a shell in the background, where nobody can be sure to end it.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from pathlib import Path


def configure(port: int) -> None:
    """Write what `covalent start` would write."""
    from covalent._shared_files.config import set_config

    for name in ("dispatcher", "user_interface"):
        set_config(f"{name}.address", "127.0.0.1")
        set_config(f"{name}.port", port)
    set_config("sdk.no_cluster", "true")


def migrate() -> None:
    """Make the tables of the private database."""
    from covalent_dispatcher._db.datastore import workflow_db

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy's, about Covalent's own old migrations
        workflow_db.run_migrations(logging_enabled=False)


def serve(listener: socket.socket) -> None:
    """Run Covalent's application on a socket that is bound already, so that nobody can take the port."""
    import covalent_ui
    import uvicorn

    root = Path(covalent_ui.__file__).parent
    os.chdir(root)  # the application finds its templates by relative paths
    sys.path.insert(0, str(root))
    from covalent_ui.api.v1.utils.log_handler import log_config

    uvicorn.Server(uvicorn.Config("app:fastapi_app", log_config=log_config())).run(sockets=[listener])


def main() -> None:
    """Serve, and say in the file of the first argument where."""
    del sys.path[0]  # this directory has modules with ordinary names
    told = Path(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    configure(port)
    migrate()
    told.with_suffix(".new").write_text(str(port))
    told.with_suffix(".new").replace(told)
    serve(listener)


if __name__ == "__main__":
    main()
