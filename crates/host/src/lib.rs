//! What /proc and the host's files say: processes, containers, users, identity.
