from tenterhook_taps import *
