"""Pictures and masks on their way into nnU-Net; needs neither torch nor nnunetv2."""
