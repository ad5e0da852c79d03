from tenterhook_specs import *
