from tenterhook_capture.text_model import *
