//! The apps `network`, `udp`, `privilege` and `modules`: one eBPF object each.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};
use watchfire_app::{App, AppError, OutOfRange, Part, PartState, Sandbox, Settings};
use watchfire_event::{Sighting, with_causes};
use watchfire_sensor::ebpf::{self, EbpfSettings, ModuleHooks, Object};

use super::tap::{Tap, through_the_tap};

/// TCP.
pub(crate) type Network = KernelApp<TcpObject>;
/// UDP.
pub(crate) type Udp = KernelApp<UdpObject>;
/// Credentials, tracing, namespaces.
pub(crate) type Privilege = KernelApp<PrivilegeObject>;
/// Kernel modules.
pub(crate) type Modules = KernelApp<ModuleObject>;

/// Which object an app loads, and with what.
pub(crate) trait KernelObject: Send + 'static {
    const NAME: &'static str;
    const OBJECT: Object;
    const GIVES: &'static str;
    type Settings: Settings;

    fn settings(settings: &Self::Settings) -> EbpfSettings;
}

/// An app that loads an eBPF object and drains its ring.
pub(crate) struct KernelApp<O> {
    tap: Tap,
    object: PhantomData<O>,
}

impl<O: KernelObject> App for KernelApp<O> {
    const NAME: &'static str = O::NAME;
    type Settings = O::Settings;
    type Fact = Sighting;

    fn start(settings: O::Settings, _: &Sandbox) -> Result<Self, AppError> {
        let source = ebpf::load(&O::settings(&settings), O::OBJECT).map_err(|error| {
            let part = unavailable(O::OBJECT.name(), O::GIVES, &error);
            AppError::Unavailable { why: part.details.join("; "), parts: vec![part] }
        })?;
        let blind = source.blind_spots().to_vec();
        Ok(KernelApp { tap: Tap::new(source, O::GIVES, blind), object: PhantomData })
    }

    through_the_tap!();
}

/// A source that does not work here, and why.
pub(super) fn unavailable(name: &'static str, gives: &'static str, error: &dyn std::error::Error) -> Part {
    let why = with_causes(error);
    tracing::warn!(source = name, error = why, "source unavailable");
    Part { name, state: PartState::Unavailable, gives, details: vec![why] }
}

/// Checks the size of a ring: rings are powers of two.
pub(super) fn ring(kib: u32, least: u32, most: u32, allowed: &'static str) -> Result<(), OutOfRange> {
    if kib.is_power_of_two() && (least..=most).contains(&kib) {
        return Ok(());
    }
    Err(OutOfRange { key: "ring_kib", value: kib.to_string(), allowed })
}

/// Settings of an object that has only a ring.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RingSettings {
    /// In KiB; a power of two, 64 to 16384.
    ring_kib: u32,
}

impl Default for RingSettings {
    fn default() -> Self {
        RingSettings { ring_kib: 256 }
    }
}

impl Settings for RingSettings {
    fn check(&self) -> Result<(), OutOfRange> {
        ring(self.ring_kib, 64, 16_384, "a power of two from 64 to 16384")
    }
}

pub(crate) struct TcpObject;

impl KernelObject for TcpObject {
    const NAME: &'static str = "network";
    const OBJECT: Object = Object::Network;
    const GIVES: &'static str = "TCP connect, accept, listen";
    type Settings = RingSettings;

    fn settings(settings: &RingSettings) -> EbpfSettings {
        EbpfSettings { network_ring: settings.ring_kib * 1024, ..EbpfSettings::default() }
    }
}

pub(crate) struct UdpObject;

impl KernelObject for UdpObject {
    const NAME: &'static str = "udp";
    const OBJECT: Object = Object::Udp;
    const GIVES: &'static str = "first datagram of each UDP flow";
    type Settings = RingSettings;

    fn settings(settings: &RingSettings) -> EbpfSettings {
        EbpfSettings { udp_ring: settings.ring_kib * 1024, ..EbpfSettings::default() }
    }
}

pub(crate) struct PrivilegeObject;

impl KernelObject for PrivilegeObject {
    const NAME: &'static str = "privilege";
    const OBJECT: Object = Object::Privilege;
    const GIVES: &'static str = "credentials, ptrace, memfd, eBPF programs, mounts, namespaces";
    type Settings = RingSettings;

    fn settings(settings: &RingSettings) -> EbpfSettings {
        EbpfSettings { privilege_ring: settings.ring_kib * 1024, ..EbpfSettings::default() }
    }
}

/// How attempts to load kernel modules are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModuleWatch {
    /// The cheapest hook that this kernel has; nothing on a kernel that cannot load modules.
    #[default]
    Auto,
    /// The tracepoints of the two system calls or nothing.
    Tracepoints,
    /// Every system call is looked at, which costs each some 50 ns; sees attempts on a kernel without modules too.
    EverySyscall,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ModuleSettings {
    hooks: ModuleWatch,
    /// In KiB; a power of two, 64 to 16384.
    ring_kib: u32,
}

impl Default for ModuleSettings {
    /// Modules are loaded at boot, and then hardly ever.
    fn default() -> Self {
        ModuleSettings { hooks: ModuleWatch::Auto, ring_kib: 64 }
    }
}

impl Settings for ModuleSettings {
    fn check(&self) -> Result<(), OutOfRange> {
        ring(self.ring_kib, 64, 16_384, "a power of two from 64 to 16384")
    }
}

pub(crate) struct ModuleObject;

impl KernelObject for ModuleObject {
    const NAME: &'static str = "modules";
    const OBJECT: Object = Object::Module;
    const GIVES: &'static str = "kernel modules";
    type Settings = ModuleSettings;

    fn settings(settings: &ModuleSettings) -> EbpfSettings {
        let module_hooks = match settings.hooks {
            ModuleWatch::Auto => ModuleHooks::Auto,
            ModuleWatch::Tracepoints => ModuleHooks::Tracepoints,
            ModuleWatch::EverySyscall => ModuleHooks::EverySyscall,
        };
        EbpfSettings { module_ring: settings.ring_kib * 1024, module_hooks, ..EbpfSettings::default() }
    }
}
