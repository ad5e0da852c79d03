from tenterhook_capture.observers import *
