"""The views, one module a tab. Each has `build(studio)`, which makes its Blocks in the tab that is open."""
