"""Plans files that carry a recipe and its network, made from stock nnU-Net's."""
