"""Features from a pretrained network: what it is, its input, its maps, and what segmentation makes of them."""
