from tenterhook_capture.testing.text_models import *
