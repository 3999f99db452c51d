"""Convolution, batch norm and ReLU: the unit of UPerNet's and the progressive decoder."""

from torch import Tensor, nn
from torch.nn.functional import batch_norm


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that also trains on one image with a map of a single position, for which torch's raises an error.

    A single value per channel has no variance, so the running statistics normalise it, as in eval mode, and do not change.
    """

    running_mean: Tensor
    running_var: Tensor

    def forward(self, map_BChw: Tensor) -> Tensor:
        """(B, C, h, w), unchanged in shape."""
        if self.training and map_BChw[:, 0].numel() == 1:
            return batch_norm(map_BChw, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(map_BChw)


class ConvUnit(nn.Module):
    """(B, width, h, w) -> (B, out, ceil(h / stride), ceil(w / stride)), for odd kernels."""

    def __init__(self, width: int, out: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.norm = BatchNorm(out)

    def forward(self, map_BChw: Tensor) -> Tensor:
        return self.norm(self.conv(map_BChw)).relu_()
