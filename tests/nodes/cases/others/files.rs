//! Users, groups, mount points and attributes of files as others left them.
