"""The lock around what managers of plugins change; no code of a plugin runs while it is held.

One for all of them, so that a fork can free it in the child: the thread that held it is not there.
"""

import os
import threading

lock = threading.Lock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]
