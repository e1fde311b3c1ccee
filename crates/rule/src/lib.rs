//! Sigma rules: load, check, evaluate over events; pure.
