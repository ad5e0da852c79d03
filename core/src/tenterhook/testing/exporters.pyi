from tenterhook_store.testing.exporters import *
