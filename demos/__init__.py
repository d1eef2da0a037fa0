"""Gradio pages, one tab a family: `effvision demo`.

`server` starts the page, `channel` is the WebSocket that carries one visitor's frames and answers, `gestures` is TSM's tab;
`page/` holds what runs in the browser. Nothing here is imported by the rest of the package but by the command line.
"""
