//! systemd as others left it: drop-ins and units that win over ours, masks, start limits.
