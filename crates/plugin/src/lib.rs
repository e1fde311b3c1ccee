//! External plug-ins: any executable that speaks the worker protocol, and whose file matches a signed manifest.
//!
//! `keys.rs` (who signs) → `manifest.rs` (what a plug-in is and may do) → `package.rs` (a folder's manifests, checked against their signatures
//! and files; an open executable is what comes out).

#![forbid(unsafe_code)]

mod keys;
mod manifest;
mod package;

pub use keys::{KeyError, SecretKey, TrustedKey};
pub use manifest::{Manifest, ManifestError};
pub use package::{MANIFEST_SUFFIX, Package, PackageError, SIGNATURE_SUFFIX, digest};
