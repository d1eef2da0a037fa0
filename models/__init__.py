"""Model families, one folder each; installed as `effvision.models`. Families never import each other."""
