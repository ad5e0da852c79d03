from tenterhook_store import *
