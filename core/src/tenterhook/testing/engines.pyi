from tenterhook_capture.testing.engines import *
