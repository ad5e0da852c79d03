from tenterhook_cli.testing import *
