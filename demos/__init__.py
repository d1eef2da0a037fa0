"""Pages (Gradio), installed as `effvision.demos`. They arrive with the webcam page."""
