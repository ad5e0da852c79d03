from tenterhook_capture import *
