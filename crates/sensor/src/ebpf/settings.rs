//! What can be set about the eBPF sensors.

use std::time::Duration;

use super::object::Object;

/// Sizes and pace. Ring sizes are rounded up to a power of two of at least one page; a ring is charged to this process'
/// memory once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EbpfSettings {
    /// Ring of exec, fork and exit, bytes. 4 MiB hold 0.28 s of the worst storm measured (14.5 MB/s).
    pub process_ring: u32,
    /// Ring of connect, accept, listen, bytes: 80 bytes each.
    pub network_ring: u32,
    /// Ring of UDP flows, bytes: 80 bytes each.
    pub udp_ring: u32,
    /// Ring of credentials, ptrace, memfd, bpf, mount and namespace events, bytes.
    pub privilege_ring: u32,
    /// Ring of module loads, bytes.
    pub module_ring: u32,
    /// The kernel side wakes the reader at most this often, unless a quarter of the ring is filled.
    pub wake_interval: Duration,
    /// How module loads are watched.
    pub module_hooks: ModuleHooks,
}

impl Default for EbpfSettings {
    fn default() -> Self {
        EbpfSettings {
            process_ring: 4 << 20,
            network_ring: 512 << 10,
            udp_ring: 256 << 10,
            privilege_ring: 256 << 10,
            module_ring: 64 << 10,
            wake_interval: Duration::from_millis(20),
            module_hooks: ModuleHooks::Auto,
        }
    }
}

impl EbpfSettings {
    /// The ring of one object, bytes.
    pub(super) fn ring(&self, object: Object) -> u32 {
        match object {
            Object::Process => self.process_ring,
            Object::Network => self.network_ring,
            Object::Udp => self.udp_ring,
            Object::Privilege => self.privilege_ring,
            Object::Module => self.module_ring,
        }
    }
}

/// How module loads are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModuleHooks {
    /// The single-syscall tracepoints; where the kernel can load modules but has no such tracepoints, every system call
    /// is looked at. Nothing on a kernel without modules.
    #[default]
    Auto,
    /// The single-syscall tracepoints or nothing.
    Tracepoints,
    /// Every system call is looked at (x86-64 only), which costs each of them about 50 ns. Sees attempts on a kernel
    /// without modules, too.
    EverySyscall,
}
