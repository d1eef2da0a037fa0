"""The mathematics in numpy that predictors, exported files and Jetson kits share. Needs numpy only."""
