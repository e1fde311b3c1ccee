//! TCP.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use watchfire_event::{Actor, Body, Flow, Outcome, Transport, What};

use crate::books::totals;
use crate::child::{fork, wait};
use crate::watch::{Report, Watch, same};

pub(crate) fn run(watch: &mut Watch, report: &mut Report) {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let family = if address.starts_with('[') { "IPv6" } else { "IPv4" };
        match TcpListener::bind(address) {
            Ok(listener) => {
                report.case(&format!("listen ({family})"), listens(watch, &listener));
                report.case(&format!("connect ({family})"), connects(watch, &listener));
                report.case(&format!("accept ({family})"), accepts(watch, &listener));
                drop(listener);
                report.case(&format!("connect ({family}, refused)"), refused(watch, address));
            }
            Err(error) => report.skipped(&format!("TCP over {family}"), &error.to_string()),
        }
    }
    report.case("connect (timed out)", timed_out(watch));
    report.case("connect (given up)", given_up(watch));
}

fn own(actor: Actor) -> bool {
    actor.tgid == std::process::id() && actor.started.is_some()
}

fn find(
    watch: &mut Watch,
    pick: impl Fn(&Body) -> Option<Flow>,
    fits: impl Fn(Actor, &Flow) -> bool,
) -> Result<Flow, String> {
    let found = watch.wait(|sighting| {
        let What::Done(body) = &sighting.what else { return None };
        pick(body).filter(|flow| fits(sighting.actor, flow))
    });
    found.ok_or_else(|| {
        let bodies = watch.seen.iter().map(|sighting| format!("{} {:?}", sighting.actor.tgid, sighting.what));
        let told = bodies.collect::<Vec<_>>().join(" | ");
        format!("not told; told were {told}; books {}", totals(&watch.books()))
    })
}

fn connect_to(watch: &mut Watch, remote: SocketAddr) -> Result<Flow, String> {
    let pick = |body: &Body| if let Body::Connect(flow) = body { Some(*flow) } else { None };
    find(watch, pick, |actor, flow| own(actor) && flow.remote == remote)
}

fn listens(watch: &mut Watch, listener: &TcpListener) -> Result<(), String> {
    let local = listener.local_addr().expect("address");
    let pick = |body: &Body| if let Body::Listen(flow) = body { Some(*flow) } else { None };
    let flow = find(watch, pick, |actor, flow| own(actor) && flow.local == local)?;
    same("remote is unspecified", (flow.remote.ip().is_unspecified(), flow.remote.port()), (true, 0))
}

fn connects(watch: &mut Watch, listener: &TcpListener) -> Result<(), String> {
    let remote = listener.local_addr().expect("address");
    let stream = TcpStream::connect(remote).expect("connect");
    let flow = connect_to(watch, remote)?;
    let expected = Flow {
        transport: Transport::Tcp,
        local: stream.local_addr().expect("address"),
        remote,
        outcome: Outcome::Succeeded,
    };
    same("flow", flow, expected)?;
    // Take it from the queue, so that the next accept is the next case's.
    listener.accept().map(drop).map_err(|error| error.to_string())
}

/// Accepted by a child that did not call listen: it is the one to name.
fn accepts(watch: &mut Watch, listener: &TcpListener) -> Result<(), String> {
    let local = listener.local_addr().expect("address");
    let stream = TcpStream::connect(local).expect("connect");
    let pid = fork(|| i32::from(listener.accept().is_err()));
    same("the child's accept", wait(pid), 0)?;
    let pick = |body: &Body| if let Body::Accept(flow) = body { Some(*flow) } else { None };
    let tgid = u32::try_from(pid).expect("a pid");
    let flow = find(watch, pick, |actor, _| actor.tgid == tgid)?;
    let remote = stream.local_addr().expect("address");
    same("flow", flow, Flow { transport: Transport::Tcp, local, remote, outcome: Outcome::Succeeded })
}

fn refused(watch: &mut Watch, address: &str) -> Result<(), String> {
    // A port that was just free and that nobody listens at.
    let remote = TcpListener::bind(address).expect("bind").local_addr().expect("address");
    same("connect fails", TcpStream::connect(remote).is_err(), true)?;
    let flow = connect_to(watch, remote)?;
    same("outcome", flow.outcome, Outcome::Refused)?;
    same("the local port is told", flow.local.port() != 0, true)
}

/// A socket made by hand, of which one packet is sent and no more.
fn socket(nonblocking: bool) -> OwnedFd {
    let kind = if nonblocking { libc::SOCK_STREAM | libc::SOCK_NONBLOCK } else { libc::SOCK_STREAM };
    // SAFETY: integers only; the descriptor is new and owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0)) }
}

fn connect(fd: &OwnedFd, port: u16) -> std::io::Result<()> {
    rustix::net::connect(fd, &SocketAddr::from(([127, 0, 0, 1], port))).map_err(Into::into)
}

/// A listener whose queue is full: it drops every further SYN.
fn deaf_listener() -> (OwnedFd, u16, Vec<OwnedFd>) {
    let listener = socket(false);
    rustix::net::bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
    rustix::net::listen(&listener, 0).expect("listen");
    let address = rustix::net::getsockname(&listener).expect("address");
    let port = SocketAddr::try_from(address).expect("an internet address").port();
    let fill = (0..4).map(|_| socket(true)).collect::<Vec<_>>();
    // In progress or connected, whichever the queue allows: both fill it.
    fill.iter().for_each(|fd| drop(connect(fd, port)));
    std::thread::sleep(std::time::Duration::from_millis(50));
    (listener, port, fill)
}

fn timed_out(watch: &mut Watch) -> Result<(), String> {
    let (_listener, port, fill) = deaf_listener();
    let fd = socket(false);
    let patience: libc::c_uint = 300;
    // SAFETY: the option's value and its length outlive the call.
    let set = unsafe {
        let size = libc::socklen_t::try_from(size_of::<libc::c_uint>()).expect("four");
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            (&raw const patience).cast(),
            size,
        )
    };
    same("setsockopt", set, 0)?;
    let error = connect(&fd, port).err().and_then(|error| error.raw_os_error());
    same("connect fails with", error, Some(libc::ETIMEDOUT))?;
    let pick = |body: &Body| if let Body::Connect(flow) = body { Some(*flow) } else { None };
    let timed_out = |actor: Actor, flow: &Flow| {
        own(actor) && flow.remote.port() == port && flow.outcome == Outcome::TimedOut
    };
    drop(fill);
    find(watch, pick, timed_out).map(drop)
}

fn given_up(watch: &mut Watch) -> Result<(), String> {
    let (_listener, port, fill) = deaf_listener();
    let fd = socket(true);
    let error = connect(&fd, port).err().and_then(|error| error.raw_os_error());
    same("connect is under way", error, Some(libc::EINPROGRESS))?;
    drop((fd, fill));
    let pick = |body: &Body| if let Body::Connect(flow) = body { Some(*flow) } else { None };
    find(watch, pick, |actor, flow| {
        own(actor) && flow.remote.port() == port && flow.outcome == Outcome::Failed(0)
    })
    .map(drop)
}
