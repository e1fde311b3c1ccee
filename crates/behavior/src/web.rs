//! A small web server on loopback: something to download from and to upload to.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::BehaviorError;

/// A request's head and an upload are read to these many bytes.
const HEAD_LIMIT: u64 = 16 * 1024;
const BODY_LIMIT: u64 = 4 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves one body at every path until dropped.
pub(crate) struct Web {
    port: u16,
    stop: Arc<AtomicBool>,
    uploaded: Arc<AtomicU64>,
    serving: Option<JoinHandle<()>>,
}

impl Web {
    /// Starts serving `body` on a free port of 127.0.0.1.
    pub(crate) fn serve(body: Vec<u8>) -> Result<Self, BehaviorError> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(BehaviorError::call("listen on loopback"))?;
        let address = listener.local_addr().map_err(BehaviorError::call("read the listener's address"))?;
        listener.set_nonblocking(true).map_err(BehaviorError::call("set the listener non-blocking"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let uploaded = Arc::new(AtomicU64::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&uploaded));
        let name = std::thread::Builder::new().name("behavior-web".to_owned());
        let serving = name.spawn(move || serve(&listener, &body, &stopped, &counter));
        let serving = serving.map_err(BehaviorError::call("start a thread"))?;
        Ok(Self { port: address.port(), stop, uploaded, serving: Some(serving) })
    }

    /// The address of a file on this server.
    pub(crate) fn url(&self, file: &str) -> String {
        format!("http://127.0.0.1:{}/{file}", self.port)
    }

    /// Bytes of request bodies taken in so far.
    pub(crate) fn uploaded(&self) -> u64 {
        self.uploaded.load(Ordering::SeqCst)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(serving) = self.serving.take() {
            serving.join().ok();
        }
    }
}

fn serve(listener: &TcpListener, body: &[u8], stop: &AtomicBool, uploaded: &AtomicU64) {
    while !stop.load(Ordering::SeqCst) {
        match listener.accept() {
            // A client that breaks off spoils its own request only.
            Ok((connection, _)) => drop(answer(&connection, body, uploaded)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(2))
            }
            Err(_) => return,
        }
    }
}

fn answer(connection: &TcpStream, body: &[u8], uploaded: &AtomicU64) -> std::io::Result<()> {
    connection.set_nonblocking(false)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(connection);
    let head = read_head(&mut (&mut reader).take(HEAD_LIMIT))?;
    let mut writer = connection;
    if head.awaits_consent {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let taken = std::io::copy(&mut reader.take(head.length.min(BODY_LIMIT)), &mut std::io::sink())?;
    uploaded.fetch_add(taken, Ordering::SeqCst);
    write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    writer.write_all(body)
}

/// What a request's head says of its body.
#[derive(Default)]
struct Head {
    /// Content-Length, or 0.
    length: u64,
    /// The client waits for `100 Continue` before it sends the body.
    awaits_consent: bool,
}

/// Reads to the empty line.
fn read_head(reader: &mut impl BufRead) -> std::io::Result<Head> {
    let mut head = Head::default();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            return Ok(head);
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.trim().parse().unwrap_or(0),
            "expect" => head.awaits_consent = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_down_and_an_upload_is_counted() {
        let web = Web::serve(b"payload".to_vec()).unwrap();
        let mut connection = TcpStream::connect(("127.0.0.1", web.port)).unwrap();
        connection.write_all(b"PUT /x HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("payload"), "{answer}");
        assert_eq!(web.uploaded(), 5);
    }
}
