//! UDP flows.

use std::net::{SocketAddr, UdpSocket};

use watchfire_event::{Body, Flow, Outcome, Transport, What};

use crate::watch::{Report, Watch, same};

pub(crate) fn run(watch: &mut Watch, report: &mut Report) {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let family = if address.starts_with('[') { "IPv6" } else { "IPv4" };
        match UdpSocket::bind(address) {
            Ok(peer) => {
                let other = UdpSocket::bind(address).expect("bind");
                report.case(&format!("udp_send ({family})"), sends(watch, &peer, &other));
                report.case(&format!("udp_send ({family}, connected)"), connected(watch, &peer, address));
            }
            Err(error) => report.skipped(&format!("udp_send ({family})"), &error.to_string()),
        }
    }
}

fn told(watch: &mut Watch, remote: SocketAddr, local_port: u16) -> Option<Flow> {
    watch.wait(|sighting| match &sighting.what {
        What::Done(Body::UdpSend(flow))
            if sighting.actor.tgid == std::process::id()
                && sighting.actor.started.is_some()
                && flow.remote == remote
                && (flow.local.port() == local_port || local_port == 0) =>
        {
            Some(*flow)
        }
        _ => None,
    })
}

/// Two datagrams to one peer are one flow, to another peer a second.
fn sends(watch: &mut Watch, peer: &UdpSocket, other: &UdpSocket) -> Result<(), String> {
    let local = if peer.local_addr().expect("address").is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(local).expect("bind");
    let own = socket.local_addr().expect("address");
    let (first, second) = (peer.local_addr().expect("address"), other.local_addr().expect("address"));
    for remote in [first, first, second] {
        socket.send_to(b"x", remote).expect("send");
    }
    let flow = told(watch, first, own.port()).ok_or("the first flow is not told")?;
    same(
        "flow",
        flow,
        Flow { transport: Transport::Udp, local: own, remote: first, outcome: Outcome::Succeeded },
    )?;
    told(watch, second, own.port()).ok_or("the second flow is not told")?;
    let ours = watch.count(|sighting| matches!(&sighting.what, What::Done(Body::UdpSend(flow)) if flow.local.port() == own.port()));
    same("flows told", ours, 2)
}

fn connected(watch: &mut Watch, peer: &UdpSocket, address: &str) -> Result<(), String> {
    let remote = peer.local_addr().expect("address");
    watch.seen.clear();
    let socket = UdpSocket::bind(address).expect("bind");
    socket.connect(remote).expect("connect");
    socket.send(b"x").expect("send");
    told(watch, remote, 0).map(drop).ok_or_else(|| "not told".to_owned())
}
