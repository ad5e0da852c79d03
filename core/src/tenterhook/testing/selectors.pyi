from tenterhook_selections.testing import *
