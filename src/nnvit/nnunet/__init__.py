"""The nnU-Net side. Only this package imports nnunetv2; nothing of nnU-Net is edited or patched."""
