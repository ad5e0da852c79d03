from tenterhook.plugins.schemes import *
