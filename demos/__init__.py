"""Gradio pages, one tab a family: `effvision demo`.

`server` starts the page, `places` lets visitors in, `channel` is the WebSocket that carries one visitor's frames and answers;
`gestures` is TSM's tab, `tracking` PatchNet's, `points` that of point clouds; `page/` holds what runs in the browser.
Nothing here is imported by the rest of the package but by the command line.
"""
