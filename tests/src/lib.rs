//! Whole-system scenarios; one directory per capability.
