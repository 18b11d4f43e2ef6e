//! Attacks by a user of the node without privileges.
