from tenterhook_capture.testing.observers import *
