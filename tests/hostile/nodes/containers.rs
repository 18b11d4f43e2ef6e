//! Attacks from inside a container.
