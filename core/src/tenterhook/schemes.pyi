from tenterhook_store.schemes import *
