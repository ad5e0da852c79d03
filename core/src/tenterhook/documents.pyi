from tenterhook_capture.documents import *
