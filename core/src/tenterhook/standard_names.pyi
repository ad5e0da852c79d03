from tenterhook_transformers.standard_names import *
