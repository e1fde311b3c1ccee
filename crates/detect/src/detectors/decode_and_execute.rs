//! Hidden text decoded straight into a shell: `base64 -d | sh`.

use watchfire_event::{Body, Kind, Level};
use watchfire_rule::KindSet;

use crate::detectors::{Detector, DetectorInfo, Finding, Sight, programs};

pub(crate) const INFO: DetectorInfo = DetectorInfo {
    slug: "decode_and_execute",
    title: "Decoded text executed by a shell",
    description: "A shell or interpreter takes its commands from a pipe into which base64, openssl or xxd writes what \
                  it decoded.",
    attack: &["T1140", "T1027", "T1059.004"],
    level: Level::High,
    falsepositives: "Self-extracting installers and provisioning tools that carry scripts in base64.",
};

/// See the module. The pipes are remembered by the scene.
pub(crate) struct DecodeAndExecute;

impl Detector for DecodeAndExecute {
    fn info(&self) -> &'static DetectorInfo {
        &INFO
    }

    fn wants(&self) -> KindSet {
        KindSet::of(&[Kind::Exec])
    }

    fn judge(&mut self, sight: &Sight<'_>, out: &mut Vec<Finding>) {
        let (process, now) = (&sight.event.process, sight.event.at);
        if !matches!(sight.event.body, Body::Exec) {
            return;
        }
        let pair = if programs::takes_commands_from_stdin(process) {
            sight
                .scene
                .feeders(process, now)
                .iter()
                .find(|one| programs::is_decoder(one))
                .map(|decoder| (process, decoder))
        } else if programs::is_decoder(process) {
            let mut readers = sight.scene.readers(process, now).iter();
            readers.find(|one| programs::takes_commands_from_stdin(one)).map(|shell| (shell, process))
        } else {
            None
        };
        let Some((shell, decoder)) = pair else { return };
        let finding = Finding::about(shell)
            .with("process.exe", &shell.exe)
            .with("process.stdin", shell.stdio[0].as_str())
            .with("decoder.exe", &decoder.exe)
            .with_argv("decoder.argv", &decoder.argv);
        out.push(finding);
    }

    fn forgotten(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use watchfire_event::{Process, Stdio};

    use super::*;
    use crate::detectors::testing::{Stage, event, process, with_stdio};

    fn base64(args: &[&str]) -> Process {
        with_stdio(process(2, 1, "/usr/bin/base64", args), Stdio::Pipe(1), Stdio::Pipe(2))
    }

    #[test]
    fn decoder_and_shell_are_found_in_either_order() {
        let shell = || with_stdio(process(3, 1, "/usr/bin/bash", &["bash"]), Stdio::Pipe(2), Stdio::Tty);
        for decoder_first in [true, false] {
            let mut stage = Stage::new(DecodeAndExecute);
            let mut pair = [event(1, base64(&["base64", "-d"]), Body::Exec), event(1, shell(), Body::Exec)];
            if !decoder_first {
                pair.reverse();
            }
            assert!(stage.see(&pair[0]).is_empty());
            let found = stage.see(&pair[1]);
            assert_eq!(found[0].process.key.tgid, 3, "{decoder_first}");
        }
    }

    #[test]
    fn decoding_for_others_and_encoding_stay_quiet() {
        let mut stage = Stage::new(DecodeAndExecute);
        let jq = with_stdio(process(3, 1, "/usr/bin/jq", &["jq", "."]), Stdio::Pipe(2), Stdio::Tty);
        assert!(stage.see(&event(1, base64(&["base64", "-d"]), Body::Exec)).is_empty());
        assert!(stage.see(&event(1, jq, Body::Exec)).is_empty());
        let mut stage = Stage::new(DecodeAndExecute);
        let shell = with_stdio(process(3, 1, "/usr/bin/bash", &["bash"]), Stdio::Pipe(2), Stdio::Tty);
        assert!(stage.see(&event(1, base64(&["base64"]), Body::Exec)).is_empty());
        assert!(stage.see(&event(1, shell, Body::Exec)).is_empty());
    }
}
