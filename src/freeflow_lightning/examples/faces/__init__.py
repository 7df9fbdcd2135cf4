"""The faces, drawn by DiceBear's pixel-art style (CC0): data, and the classifier that sees them."""

from freeflow_lightning.examples.faces.data import (
    FacesDataModule,
    FacesSamples,
    load_faces,
    read_faces,
)

__all__ = ["FacesDataModule", "FacesSamples", "load_faces", "read_faces"]
