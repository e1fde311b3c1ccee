//! eBPF sensors: objects written in C (`bpf/`), built ahead by `cargo xtask bpf`, loaded here.
//!
//! [`Object`] (which hooks) → `loader` (relocate, verify, attach) → `ring` (records) → `watchfire_abi::decode` →
//! [`EbpfSource`]. Each concern is an object of its own, so that one that does not load costs only itself; inside an
//! object a hook that cannot be attached costs only that hook, and [`EbpfSource::blind_spots`] tells what it would have
//! seen.

mod attach;
mod error;
mod loader;
mod object;
mod ring;
mod settings;
mod source;
mod sys;

pub use error::EbpfError;
pub use loader::load;
pub use object::{OBJECTS, Object};
pub use settings::{EbpfSettings, ModuleHooks};
pub use source::EbpfSource;
