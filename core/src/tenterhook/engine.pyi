from tenterhook_capture.engine import *
