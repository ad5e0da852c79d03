from tenterhook_capture.testing.datasets import *
