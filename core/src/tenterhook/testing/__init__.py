"""For the tests of plugins: contracts to inherit, fixtures, a small real model that reads text.

- `tenterhook.testing.hooks`: `DetectorContract`, `ControllerContract`
- `tenterhook.testing.stores`: `StoreContract`
- `tenterhook.testing.loaders`: `LoaderContract`
- `tenterhook.testing.layer_names`: `LayerNamesContract`
- `tenterhook.testing.points`: `PointsContract`
- `tenterhook.testing.commands`, `.datasets`, `.engines`, `.exporters`, `.observers`, `.selectors`,
  `.specs`: the contracts of these, of the distributions that know them
- `tenterhook.testing.fixtures`: fixtures that register a plugin in this process, or lay down a real
  dist-info folder; `pytest_plugins = ["tenterhook.testing.fixtures"]` in the top `conftest.py`
- `tenterhook.testing.text_models`: `WordModel`

Nothing here is imported unless asked for, and nothing is a `pytest11` plugin: who does not want it
pays nothing for it. The contracts need `pip install pytest`.
"""
