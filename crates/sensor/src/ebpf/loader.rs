//! Loading one object: fit it to the kernel, size its ring, verify and attach its programs.

use std::error::Error as StdError;
use std::io;

use aya::maps::{Map, MapData, PerCpuArray};
use aya::{Btf, Ebpf, EbpfLoader};
use watchfire_event::with_causes;

use super::attach::{Link, Places, load_program};
use super::error::{EbpfError, refused_or};
use super::object::{Hook, Image, Object, image};
use super::ring::Ring;
use super::settings::{EbpfSettings, ModuleHooks};
use super::source::{Attached, EbpfSource};
use super::sys;

/// A ring is due for reading when a quarter of it is filled.
const WAKE_PART: u64 = 4;

/// Loads an object and attaches its programs. Dropping the source takes them out of the kernel.
///
/// # Errors
/// [`EbpfError`] says what the kernel refused. A hook the object can do without does not fail the load: see
/// [`EbpfSource::blind_spots`].
pub fn load(settings: &EbpfSettings, object: Object) -> Result<EbpfSource, EbpfError> {
    lift_memlock();
    let loaded = load_image(settings, object, settings.module_hooks);
    let fall_back = object == Object::Module && settings.module_hooks == ModuleHooks::Auto;
    let loaded = match loaded {
        Err(EbpfError::MissingHook { .. }) if fall_back => {
            load_image(settings, object, ModuleHooks::EverySyscall)
        }
        other => other,
    };
    sys::trim_memory();
    loaded
}

fn load_image(
    settings: &EbpfSettings,
    object: Object,
    modules: ModuleHooks,
) -> Result<EbpfSource, EbpfError> {
    let attached = attach_all(settings, object, image(object, modules)?)?;
    Ok(EbpfSource::new(object, attached))
}

/// Before 5.11 maps and programs count against the lockable memory of this process. Where it may not be raised the load
/// itself will tell.
fn lift_memlock() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if let Err(error) = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }) {
        tracing::debug!(%error, "the limit of lockable memory stays as it is");
    }
}

fn attach_all(settings: &EbpfSettings, object: Object, image: &Image) -> Result<Attached, EbpfError> {
    let (mut ebpf, ring_size) = fit(settings, object, image)?;
    let mut places = Places::default();
    let mut links = Vec::new();
    let mut blind_spots = Vec::new();
    let mut last = None;
    for hook in image.hooks.iter().copied().flatten() {
        match (attach_hook(object, hook, &mut ebpf, &mut places), hook.blind) {
            (Ok(link), _) => links.push(link),
            (Err(error), None) => return Err(error),
            (Err(error), Some(blind)) => {
                blind_spots.push(format!("{blind} ({})", with_causes(&error)));
                last = Some(error);
            }
        }
    }
    if let (true, Some(error)) = (links.is_empty(), last) {
        return Err(error);
    }
    let counters = take_map(&mut ebpf, object, "counters")?;
    let counters =
        PerCpuArray::try_from(counters).map_err(|error| unfit(object, "open the counters", error))?;
    let Map::RingBuf(events) = take_map(&mut ebpf, object, "events")? else {
        return Err(unfit(object, "open the ring", io::Error::other("`events` is no ring")));
    };
    let ring = open_ring(&events, ring_size).map_err(|error| unfit(object, "map the ring", error))?;
    Ok(Attached { ebpf, links, blind_spots, counters, events, ring })
}

fn open_ring(events: &MapData, size: u32) -> io::Result<Ring> {
    use std::os::fd::AsFd;
    Ring::new(events.fd().as_fd(), usize::try_from(size).map_err(io::Error::other)?)
}

/// Fits the object to this kernel's types and makes its maps.
fn fit(settings: &EbpfSettings, object: Object, image: &Image) -> Result<(Ebpf, u32), EbpfError> {
    let kernel_types = Btf::from_sys_fs().map_err(|error| {
        refused_or(object, "read the kernel's types", error, |source| EbpfError::NoBtf { source })
    })?;
    let page = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
    let ring_size = settings.ring(object).clamp(page, 1 << 30).next_power_of_two();
    let wake_interval = u64::try_from(settings.wake_interval.as_nanos()).unwrap_or(u64::MAX >> 1);
    let wake_bytes = u64::from(ring_size) / WAKE_PART;
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| unfit(object, "count the CPUs", error))?;
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&kernel_types))
        .override_global("wake_interval_ns", &wake_interval, true)
        .override_global("wake_bytes", &wake_bytes, true)
        .map_max_entries("events", ring_size)
        .map_max_entries("scratch", u32::try_from(cpus).unwrap_or(u32::MAX));
    let ebpf = loader.load(image.bytes).map_err(|error| {
        refused_or(object, "make its maps", error, |source| EbpfError::Unfit {
            object,
            attempt: "fit the object to this kernel",
            source,
        })
    })?;
    Ok((ebpf, ring_size))
}

fn attach_hook(object: Object, hook: &Hook, ebpf: &mut Ebpf, places: &mut Places) -> Result<Link, EbpfError> {
    let missing =
        || unfit(object, "find a program", io::Error::other(format!("no program {}", hook.program)));
    let program = ebpf.program_mut(hook.program).ok_or_else(missing)?;
    load_program(object, hook, program)?;
    places.attach(object, hook, program)
}

fn take_map(ebpf: &mut Ebpf, object: Object, name: &'static str) -> Result<Map, EbpfError> {
    ebpf.take_map(name).ok_or_else(|| unfit(object, "find a map", io::Error::other(format!("no map {name}"))))
}

fn unfit(object: Object, attempt: &'static str, source: impl StdError + Send + Sync + 'static) -> EbpfError {
    EbpfError::Unfit { object, attempt, source: Box::new(source) }
}
