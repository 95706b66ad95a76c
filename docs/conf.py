"""How `make docs` turns these pages into a site (Sphinx); the pages themselves read well on any host of git."""

from importlib.metadata import version as installed

project = "scoreonce"
author = "the scoreonce authors"
version = release = installed("scoreonce")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_fence_as_directive = ["math"]  # a block of maths as hosts of git write it
myst_heading_anchors = 4  # links to sections work as they do on a host of git
suppress_warnings = ["myst.header"]  # pages of a host of git may begin below a first heading

autodoc_typehints = "none"  # the signature has them
default_role = "code"  # docstrings quote names as Markdown does
autodoc_member_order = "bysource"

# The source is the repository's root, so that pages may link to results and code.
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/results/*.md"]
exclude_patterns = [".*", "runs", "build", "site", "tests", "stages", "pipeline", "schemas"]

html_theme = "furo"
html_title = "scoreonce"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2c5faa", "color-brand-content": "#2c5faa"},
    "dark_css_variables": {"color-brand-primary": "#8ab4f8", "color-brand-content": "#8ab4f8"},
}
