"""Diagrams of networks, drawn from the networks themselves: every number in them is read from the model.

    figure = diagrams.mask_rcnn(MaskRCNN(ramesh2021()), 1024)
    figure = diagrams.unet(lung_unet(), 256)

Shapes are height × width × channels, as the model gives them for an image of the size asked for.

    drawing         the vocabulary: blocks, arrows, groups, stacks of levels
    wording         what is said of layers
    pyramids        backbone_and_pyramid
    detectors       mask_rcnn
    rows            layer_row, flow
    u_nets          unet
    decompositions  decomposition
"""

from covidcxr.diagrams.decompositions import decomposition
from covidcxr.diagrams.detectors import mask_rcnn
from covidcxr.diagrams.pyramids import backbone_and_pyramid
from covidcxr.diagrams.rows import flow, layer_row
from covidcxr.diagrams.u_nets import unet

__all__ = ["backbone_and_pyramid", "decomposition", "flow", "layer_row", "mask_rcnn", "unet"]
