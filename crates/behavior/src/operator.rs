//! The other end of a reverse shell: a listener on loopback that gives one harmless order and reads the answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::{BehaviorError, Stage};

/// How long the operator waits for a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer is read to this many bytes.
const ANSWER_LIMIT: usize = 64 * 1024;

/// A listener that the stage owns.
pub(crate) struct Operator {
    listener: TcpListener,
    port: u16,
}

impl Operator {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) fn listen() -> Result<Self, BehaviorError> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(BehaviorError::call("listen on loopback"))?;
        let address = listener.local_addr().map_err(BehaviorError::call("read the listener's address"))?;
        listener.set_nonblocking(true).map_err(BehaviorError::call("set the listener non-blocking"))?;
        Ok(Self { listener, port: address.port() })
    }

    /// Where to call.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Result<TcpStream, BehaviorError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.listener.accept() {
                Ok((connection, _)) => return prepare(connection),
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(source) => return Err(BehaviorError::Call { attempt: "accept a connection", source }),
            }
        }
    }

    /// Has a shell on the other end compute something, so that its answer cannot be an echo of the order.
    pub(crate) fn command_shell(&self, stage: &Stage) -> Result<(), BehaviorError> {
        let mut connection = self.accept()?;
        let order = format!("echo $((6 * 7))-{}\nexit\n", stage.mark());
        connection.write_all(order.as_bytes()).map_err(BehaviorError::call("send the order"))?;
        read_until(&mut connection, &format!("42-{}", stage.mark()))
    }

    /// Sends a line and insists that it comes back.
    pub(crate) fn expect_echo(&self, stage: &Stage) -> Result<(), BehaviorError> {
        let mut connection = self.accept()?;
        let line = format!("{}\n", stage.mark());
        connection.write_all(line.as_bytes()).map_err(BehaviorError::call("send a line"))?;
        connection.shutdown(std::net::Shutdown::Write).map_err(BehaviorError::call("end the line"))?;
        read_until(&mut connection, stage.mark())
    }
}

fn prepare(connection: TcpStream) -> Result<TcpStream, BehaviorError> {
    let blocking = connection.set_nonblocking(false);
    let bounded = blocking.and_then(|()| connection.set_read_timeout(Some(PATIENCE)));
    bounded.map_err(BehaviorError::call("prepare a connection"))?;
    Ok(connection)
}

fn read_until(connection: &mut TcpStream, word: &str) -> Result<(), BehaviorError> {
    let mut answer = Vec::new();
    let mut chunk = [0u8; 4096];
    let deadline = Instant::now() + PATIENCE;
    while answer.len() < ANSWER_LIMIT && Instant::now() < deadline {
        let count = match connection.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        answer.extend_from_slice(&chunk[..count]);
        if answer.windows(word.len()).any(|window| window == word.as_bytes()) {
            return Ok(());
        }
    }
    let got = answer.escape_ascii().to_string();
    Err(BehaviorError::Unexpected { attempt: "hear from the other end", got })
}
