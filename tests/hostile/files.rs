//! Links, FIFOs, devices and directories in places where the program opens a file.
