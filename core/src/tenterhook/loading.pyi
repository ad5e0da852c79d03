from tenterhook_capture.loading import *
