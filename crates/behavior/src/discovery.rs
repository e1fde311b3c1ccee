//! Looking around: the host itself, and what answers on the network (loopback only).

use crate::operator::Operator;
use crate::{BehaviorError, Performed, Stage};

/// The ports tried; all in the range of well-known services, on 127.0.0.1 only.
const FIRST_PORT: u16 = 1;
const PORTS: u16 = 150;

/// What an intruder asks first. Commands that this host lacks are passed over.
const QUESTIONS: &str = "whoami; id; uname -a; hostname; groups; who; w; ps aux; df; mount; env; ss -tln; netstat -tln; \
                         ip addr; ifconfig; arp -n; last -n 3; lscpu; lsblk; cat /etc/passwd; cat /etc/os-release; exit 0";

/// Ports tried one after the other by a program.
pub(crate) fn scan_ports(stage: &Stage) -> Result<Performed, BehaviorError> {
    let mut helper = stage.helper("scanner", "scan")?;
    let performed = stage.begin();
    stage.run(helper.args([FIRST_PORT.to_string(), PORTS.to_string()]))?;
    Ok(performed)
}

/// Ports tried by `nc -z`.
pub(crate) fn scan_by_nc(stage: &Stage) -> Result<Performed, BehaviorError> {
    let range = format!("{FIRST_PORT}-{}", FIRST_PORT + PORTS - 1);
    let performed = stage.begin();
    // Its status tells whether the last port was open.
    stage.start(stage.command("nc").args(["-z", "-w", "1", "127.0.0.1", &range]))?.wait()?;
    Ok(performed)
}

/// One port tried many times, by a client whose server is not up yet.
pub(crate) fn retry_one_port(stage: &Stage) -> Result<(), BehaviorError> {
    let free = Operator::listen()?.port();
    stage.run(stage.helper("client", "retry")?.args([free.to_string(), PORTS.to_string()]))?;
    Ok(())
}

/// Many questions about the host within a second.
pub(crate) fn ask_everything(stage: &Stage) -> Result<Performed, BehaviorError> {
    let performed = stage.begin();
    stage.sh(QUESTIONS)?;
    Ok(performed)
}

/// Two questions, as any start-up script asks them.
pub(crate) fn ask_little(stage: &Stage) -> Result<(), BehaviorError> {
    stage.sh("uname -r; id -u; ls; exit 0")?;
    Ok(())
}
