from tenterhook_selections import *
