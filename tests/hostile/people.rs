//! What users of the machine and writers of tags can make root do, and what they can read.
