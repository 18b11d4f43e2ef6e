//! Answers from the network that are too long, too deep or not what they should be.
