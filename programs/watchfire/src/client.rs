//! The REST API from the command's side.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use watchfire_server::{Endpoint, default_data_dir, token_file};

use crate::cli::Target;
use crate::screen::{OutputError, Screen};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longer than the server takes to give up.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// Longest line that is read for a table.
const MAX_LINE: u64 = 16 << 20;
/// Longest error message that is read.
const MAX_ERROR: u64 = 64 << 10;

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no server runs on data directory {}; start one with `watchfire up --data-dir {}`, or name it with --data-dir or --server", .0.display(), .0.display())]
    NotRunning(PathBuf),
    #[error("{}: not readable for this user; run the command as the user that runs the server, or as root", .0.display())]
    NotAllowed(PathBuf),
    #[error("{url}: a token is needed; give --token-file FILE or set WATCHFIRE_TOKEN")]
    NoToken { url: String },
    #[error("{0:?} is no address of a server; expected http://ADDR:PORT (https is not spoken yet)")]
    BadUrl(String),
    #[error("no server answers at {url} ({reason}); is `watchfire up` running there?")]
    Unreachable { url: String, reason: String },
    #[error("{url} refused: {message}")]
    Refused { url: String, message: String },
}

/// A server and the right to ask it.
pub(crate) struct Client {
    agent: ureq::Agent,
    url: String,
    token: String,
}

impl Client {
    /// For the server that the options or the environment name.
    pub(crate) fn new(target: &Target) -> anyhow::Result<Client> {
        let (url, token) = find(target)?;
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_recv_response(Some(ANSWER_WITHIN))
            .http_status_as_error(false)
            .max_redirects(0)
            // The token goes to the server and to no one in between.
            .proxy(None)
            .build();
        Ok(Client { agent: config.into(), url, token })
    }

    /// The body of an answer to GET.
    pub(crate) fn get(&self, path: &str) -> Result<impl Read + use<>, ClientError> {
        let url = format!("{}{path}", self.url);
        self.body(self.agent.get(&url).header("Authorization", format!("Bearer {}", self.token)).call())
    }

    /// The body of an answer to POST, as JSON.
    pub(crate) fn post(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.url);
        let request = self.agent.post(&url).header("Authorization", format!("Bearer {}", self.token));
        let body = self.body(request.send_empty())?;
        serde_json::from_reader(body.take(MAX_ERROR)).with_context(|| format!("{url}: the answer is no JSON"))
    }

    /// Copies the answer to GET, as it is, to standard output.
    pub(crate) fn copy_lines(&self, path: &str, screen: &mut Screen) -> anyhow::Result<()> {
        let mut body = BufReader::with_capacity(64 << 10, self.get(path)?);
        loop {
            let piece = body.fill_buf().context("read from the server")?;
            if piece.is_empty() {
                break;
            }
            io::Write::write_all(screen, piece).map_err(OutputError)?;
            let length = piece.len();
            body.consume(length);
        }
        io::Write::flush(screen).map_err(OutputError)?;
        Ok(())
    }

    /// Each line of the answer to GET, as JSON.
    pub(crate) fn for_each(&self, path: &str, mut each: impl FnMut(Value)) -> anyhow::Result<()> {
        let mut body = BufReader::new(self.get(path)?);
        while let Some(line) = read_line(&mut body)? {
            each(serde_json::from_str(&line).context("a line from the server is no JSON")?);
        }
        Ok(())
    }

    fn body(
        &self,
        outcome: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<impl Read + use<>, ClientError> {
        let url = self.url.clone();
        let response =
            outcome.map_err(|error| ClientError::Unreachable { url: url.clone(), reason: reason(&error) })?;
        let status = response.status();
        let body = response.into_body().into_reader();
        if status.is_success() {
            return Ok(body);
        }
        let mut text = String::new();
        // A body that does not come leaves the status to be told.
        drop(body.take(MAX_ERROR).read_to_string(&mut text));
        let said = serde_json::from_str::<Value>(&text).ok();
        let message = said.as_ref().and_then(|body| body.pointer("/error/message")?.as_str());
        let message = message.map_or_else(|| format!("status {status}"), str::to_owned);
        Err(ClientError::Refused { url, message })
    }
}

/// The next line, without its end.
pub(crate) fn read_line(body: &mut impl BufRead) -> anyhow::Result<Option<String>> {
    let mut line = String::new();
    let read = body.take(MAX_LINE).read_line(&mut line).context("read from the server")?;
    if read == 0 {
        return Ok(None);
    }
    line.truncate(line.trim_end_matches(['\n', '\r']).len());
    Ok(Some(line))
}

/// Path and query of a list.
pub(crate) fn list_path(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let given =
        parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", escaped(value.as_ref()?))));
    let query: Vec<String> = given.collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

/// Percent-encoding of all but the unreserved characters (RFC 3986, section 2.3).
fn escaped(value: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
}

fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            "connection refused".to_owned()
        }
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        other => other.to_string(),
    }
}

fn find(target: &Target) -> Result<(String, String), ClientError> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(url) = &target.server {
        let url = checked_url(url)?;
        let token = match (&target.token_file, &target.data_dir) {
            (Some(file), _) => read_token(file)?,
            (None, Some(dir)) => read_token(&token_file(dir))?,
            (None, None) => variable("WATCHFIRE_TOKEN").ok_or(ClientError::NoToken { url: url.clone() })?,
        };
        return Ok((url, token));
    }
    if target.data_dir.is_none()
        && let Some(url) = variable("WATCHFIRE_URL")
    {
        let url = checked_url(&url)?;
        let token = match &target.token_file {
            Some(file) => read_token(file)?,
            None => variable("WATCHFIRE_TOKEN").ok_or(ClientError::NoToken { url: url.clone() })?,
        };
        return Ok((url, token));
    }
    let dir = target.data_dir.clone().unwrap_or_else(default_data_dir);
    let endpoint = Endpoint::read(&dir).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed(dir.clone()),
        _ => ClientError::NotRunning(dir.clone()),
    })?;
    let mut address = endpoint.address;
    if address.ip().is_unspecified() {
        let ip: IpAddr =
            if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(ip);
    }
    let file = target.token_file.clone().unwrap_or_else(|| token_file(&dir));
    Ok((format!("http://{address}"), read_token(&file)?))
}

fn checked_url(url: &str) -> Result<String, ClientError> {
    let trimmed = url.trim_end_matches('/');
    let plain = trimmed
        .strip_prefix("http://")
        .is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '@', ' ']));
    if plain { Ok(trimmed.to_owned()) } else { Err(ClientError::BadUrl(url.to_owned())) }
}

fn read_token(file: &Path) -> Result<String, ClientError> {
    let text = fs::read_to_string(file).map_err(|_| ClientError::NotAllowed(file.to_owned()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_given_parameters_stand_in_the_query_and_are_encoded() {
        let parameters =
            [("since", Some("10m".to_owned())), ("limit", None), ("rule", Some("a b&c=ü".to_owned()))];
        assert_eq!(list_path("/x", &parameters), "/x?since=10m&rule=a%20b%26c%3D%C3%BC");
        assert_eq!(list_path("/x", &[]), "/x");
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        assert_eq!(checked_url("http://127.0.0.1:7070/").unwrap(), "http://127.0.0.1:7070");
        for url in ["127.0.0.1:7070", "https://tower", "http://", "http://u@h", "http://h/p"] {
            assert!(checked_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_directory_without_a_server_is_named_with_the_way_out() {
        let dir = PathBuf::from("/nonexistent/watchfire");
        let target = Target { data_dir: Some(dir), ..Target::default() };
        let error = find(&target).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/watchfire") && error.contains("watchfire up"), "{error}");
    }

    #[test]
    fn lines_end_where_they_end() {
        let mut body = "a\r\nb".as_bytes();
        assert_eq!(read_line(&mut body).unwrap().as_deref(), Some("a"));
        assert_eq!(read_line(&mut body).unwrap().as_deref(), Some("b"));
        assert_eq!(read_line(&mut body).unwrap(), None);
    }
}
