"""Many files, on one machine or on several: one row of a Parquet table for each, whatever happens in between."""

from effvision.batch.mapping import MapReport, map_files

__all__ = ["MapReport", "map_files"]
