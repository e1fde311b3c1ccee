//! Mirror of `bpf/include/event.h` and the decoder of ring records.
//!
//! ring record → [`decode`] → `watchfire_event::Sighting`. The layout is asserted at compile time (`layout.rs`) and
//! compared with the BTF of the built objects in a test, so that neither side can change alone. Records come from our
//! own kernel side, yet are parsed like any bytes from outside: every length is checked, nothing is transmuted.
#![forbid(unsafe_code)]

#[cfg(test)]
mod btf;
mod decode;
mod exec;
mod layout;
#[cfg(test)]
mod properties;
mod reader;

pub use decode::{DecodeError, decode, kind_of};
pub use layout::{ABI_VERSION, KernelCounts, RECORD_MAX};
