"""For the tests of plugins: contracts to inherit, and a small real model that reads text.

`from tenterhook.testing.stores import StoreContract`; nothing here is imported unless asked for.
"""
