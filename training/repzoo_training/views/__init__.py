"""Random views of images, batched on the device."""
