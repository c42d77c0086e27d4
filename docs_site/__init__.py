"""What the documentation site is made of besides the pages in docs: see :mod:`docs_site.hooks`."""
