from tenterhook_specs.testing import *
