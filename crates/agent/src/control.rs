//! The control socket: `watchfire-agent config` asks and tells the agent that runs on this host. `control.sock` in the state directory, for
//! root and the agent's own user alone. One connection, one question: a frame of JSON each way.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tracing::{debug, warn};
use watchfire_wire::{read_raw_frame, write_raw_frame};

use crate::master::Notice;

const SOCKET: &str = "control.sock";
/// Each side waits so long for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question that waits for the master's answer.
pub(crate) struct Control {
    pub(crate) request: Request,
    pub(crate) reply: Sender<Result<Value, String>>,
}

/// What can be asked for.
#[derive(Debug, PartialEq)]
pub(crate) enum Request {
    /// What is in force.
    Show,
    /// To put documents in force.
    Apply(Value),
    /// To read the file again.
    Reload,
}

/// Removes the socket when the agent ends.
pub(crate) struct Listening(PathBuf);

impl Drop for Listening {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            debug!(%error, "the control socket is gone already");
        }
    }
}

/// Serves the socket on a thread of its own. The agent's lock is held: a socket that is there is a dead agent's.
pub(crate) fn listen(state_dir: &Path, notices: Sender<Notice>) -> Result<Listening> {
    let path = state_dir.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("guard the control socket")?;
    thread::Builder::new().name("control".into()).spawn(move || {
        for connection in listener.incoming() {
            let served = connection.context("accept").and_then(|connection| serve(connection, &notices));
            if let Err(error) = served {
                warn!(error = format!("{error:#}"), "control socket");
                // A listener that fails at once each time must not become a loop.
                thread::sleep(Duration::from_millis(50));
            }
        }
    })?;
    Ok(Listening(path))
}

fn serve(mut connection: UnixStream, notices: &Sender<Notice>) -> Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(&connection).context("who asks")?;
    let own = rustix::process::geteuid();
    ensure!(peer.uid.is_root() || peer.uid == own, "user {} may not ask", peer.uid.as_raw());
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let Some(frame) = read_raw_frame(&mut connection).context("read the question")? else { return Ok(()) };
    let answer = match request(&frame) {
        Ok(request) => {
            let (reply, answer) = mpsc::channel();
            if notices.send(Notice::Control(Control { request, reply })).is_err() {
                bail!("the agent is ending");
            }
            answer.recv_timeout(PATIENCE).unwrap_or_else(|_| Err("the agent is busy, or ending".to_owned()))
        }
        Err(error) => Err(format!("{error:#}")),
    };
    let answer = match answer {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": error }),
    };
    write_raw_frame(&mut connection, answer.to_string().as_bytes()).context("answer")
}

fn request(frame: &[u8]) -> Result<Request> {
    let question: Value = serde_json::from_slice(frame).context("the question is no JSON")?;
    match &question {
        Value::String(word) if word == "show" => Ok(Request::Show),
        Value::String(word) if word == "reload" => Ok(Request::Reload),
        Value::Object(object) => match object.get("apply") {
            Some(patch) if object.len() == 1 => Ok(Request::Apply(patch.clone())),
            _ => bail!("a question is \"show\", \"reload\" or {{\"apply\": …}}"),
        },
        _ => bail!("a question is \"show\", \"reload\" or {{\"apply\": …}}"),
    }
}

/// Asks the agent whose state lies in `state_dir`.
pub(crate) fn ask(state_dir: &Path, question: &Value) -> Result<Value> {
    let path = state_dir.join(SOCKET);
    let mut connection = UnixStream::connect(&path)
        .with_context(|| format!("no agent answers at {}: is it running?", path.display()))?;
    connection.set_read_timeout(Some(2 * PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    write_raw_frame(&mut connection, question.to_string().as_bytes()).context("ask the agent")?;
    let answer =
        read_raw_frame(&mut connection).context("hear the agent")?.context("the agent did not answer")?;
    let answer: Value = serde_json::from_slice(&answer).context("the agent's answer is no JSON")?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("{error}");
    }
    answer.get("ok").cloned().context("the agent's answer is none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_of_three_and_anything_else_is_told_so() {
        assert_eq!(request(b"\"show\"").unwrap(), Request::Show);
        assert_eq!(request(b"\"reload\"").unwrap(), Request::Reload);
        assert_eq!(request(b"{\"apply\": {}}").unwrap(), Request::Apply(json!({})));
        for bad in [&b"{\"apply\": {}, \"x\": 1}"[..], b"1", b"{", b"\"stop\"", b"\xff"] {
            assert!(request(bad).is_err());
        }
    }

    #[test]
    fn what_is_asked_at_the_socket_reaches_the_master_and_its_answer_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (notices, inbox) = mpsc::channel();
        let listening = listen(dir.path(), notices).unwrap();
        let master = thread::spawn(move || {
            for notice in inbox {
                let Notice::Control(Control { request, reply }) = notice else { panic!("another notice") };
                let answer = match request {
                    Request::Show => Ok(json!({"revision": 3})),
                    _ => Err("refused".to_owned()),
                };
                reply.send(answer).unwrap();
            }
        });
        assert_eq!(ask(dir.path(), &json!("show")).unwrap(), json!({"revision": 3}));
        assert_eq!(ask(dir.path(), &json!("reload")).unwrap_err().to_string(), "refused");
        assert!(ask(dir.path(), &json!(7)).unwrap_err().to_string().contains("a question is"));
        let mode = fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listening);
        assert!(ask(dir.path(), &json!("show")).unwrap_err().to_string().contains("is it running"));
        drop(master);
    }
}
