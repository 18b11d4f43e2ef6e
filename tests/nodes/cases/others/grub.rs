//! GRUB as others left it: their kernels and drop-ins.
