"""The page in the browser: masks of dropped pictures, and where the query of a clicked instance fires.

It needs gradio (`pip install -e ".[demo]"`), which is imported when a page is built and not before.
"""
