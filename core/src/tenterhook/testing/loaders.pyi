from tenterhook_capture.testing.loaders import *
