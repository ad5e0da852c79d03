from tenterhook_store.testing import *
