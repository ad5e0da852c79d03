from tenterhook_store.reductions import *
