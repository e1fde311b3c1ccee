//! Start and stop.
//!
//! Start: lock the data directory → open the stores → bind both listeners → tell where they are. Stop goes backwards:
//! no new connections → frames on their way are drained and synced → the log's tail is archived → unlock.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::api::{self, LoginLinks, Names};
use crate::auth::Auth;
use crate::datadir::DataDir;
use crate::error::ServerError;
use crate::http;
use crate::ingest::Ingest;
use crate::port;
use crate::settings::ServerSettings;
use crate::shared::Shared;
use crate::stores::Stores;

/// Threads that serve requests; work on disks goes to others, of which there are at most so many.
const REQUEST_THREADS: usize = 2;
const DISK_THREADS: usize = 8;
/// How often the archiver looks whether something is due.
const ARCHIVER_TICK: Duration = Duration::from_millis(200);
/// Pause of the archiver after a failure (a full disk).
const ARCHIVER_PAUSE: Duration = Duration::from_secs(5);

/// The server roles of one machine.
#[derive(Debug)]
pub struct Server;

/// A running server.
#[derive(Debug)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    data: DataDir,
    address: SocketAddr,
    links: LoginLinks,
    ingest: Ingest,
    archiver: JoinHandle<()>,
    http: tokio::task::JoinHandle<()>,
    runtime: Runtime,
}

impl Server {
    /// Starts all roles. When this returns, agents and operators can connect.
    ///
    /// # Errors
    /// Names the thing that is in the way: the port and who has it, the directory and who holds it, the file that is
    /// damaged or may not be written.
    pub fn start(settings: ServerSettings) -> Result<ServerHandle, ServerError> {
        let data = DataDir::open(&settings.data_dir)?;
        let listener = bind(settings.listen)?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Listen { address: settings.listen, source })?;
        let auth = Auth::new(data.admin_token()?);
        let stores = Stores::open(data.path(), &data.alerts(), settings.lake)?;
        let shared = Arc::new(Shared::new(stores, auth));
        let links = LoginLinks::new(address);
        let runtime = runtime()?;
        let router = api::router(shared.clone(), Names::new(address, hostname()), links);
        let http = start_http(&runtime, listener, router, &shared)
            .map_err(|source| ServerError::Listen { address, source })?;
        let archiver = start_archiver(shared.clone())?;
        let ingest = Ingest::start(&data.socket(), shared.clone())?;
        data.announce(address)?;
        tracing::info!(%address, data_dir = %settings.data_dir.display(), "server started");
        Ok(ServerHandle { shared, data, address, links, ingest, archiver, http, runtime })
    }
}

impl ServerHandle {
    /// Where API and console listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the local agent connects.
    pub fn agent_socket(&self) -> PathBuf {
        self.data.socket()
    }

    /// A new one-time link to the console.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn login_link(&self) -> Result<String, ServerError> {
        Ok(self.links.issue(&self.shared)?)
    }

    /// `Ok` once the local agent is online with its sensors attached; else what is missing, in words.
    pub fn health(&self) -> Result<(), String> {
        self.shared.agents.health()
    }

    /// Stops in order, within `deadline`: no new connections, frames on their way drained and synced, the log archived.
    /// False when something was still going on at the deadline; nothing acknowledged is lost even then, for it is in
    /// the log.
    pub fn stop(self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        self.shared.stop();
        let drained = self.ingest.join(end);
        let left = end.saturating_duration_since(Instant::now());
        let http = self.http;
        let served = self.runtime.block_on(async { tokio::time::timeout(left, http).await.is_ok() });
        let flushed = join_until(self.archiver, end).and_then(|()| flush(&self.shared, end));
        let archived = flushed == Some(true);
        self.runtime.shutdown_timeout(Duration::from_millis(100));
        self.data.withdraw();
        tracing::info!(drained, served, archived, "server stopped");
        drained && served && flushed.is_some()
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let in_use = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
    let listener = TcpListener::bind(address).map_err(|source| {
        if in_use(&source) {
            return ServerError::AddressInUse { address, owner: port::owner(address) };
        }
        ServerError::Listen { address, source }
    })?;
    listener.set_nonblocking(true).map_err(|source| ServerError::Listen { address, source })?;
    Ok(listener)
}

fn runtime() -> Result<Runtime, ServerError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(REQUEST_THREADS)
        .max_blocking_threads(DISK_THREADS)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(|source| ServerError::Thread { what: "the HTTP runtime", source })
}

fn start_http(
    runtime: &Runtime,
    listener: TcpListener,
    router: axum::Router,
    shared: &Arc<Shared>,
) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let _entered = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let serving = http::serve(listener, router, shared.stop_signal());
    let sampling = sample_every_second(shared.clone());
    // The sampler ends with the listener.
    Ok(runtime.spawn(async move {
        tokio::select! {
            () = serving => {}
            () = sampling => {}
        }
    }))
}

async fn sample_every_second(shared: Arc<Shared>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        shared.live.sample();
    }
}

fn start_archiver(shared: Arc<Shared>) -> Result<JoinHandle<()>, ServerError> {
    let run = move || archive_until_stopped(&shared);
    std::thread::Builder::new()
        .name("archiver".to_owned())
        .spawn(run)
        .map_err(|source| ServerError::Thread { what: "the archiver", source })
}

/// Moves what is due from the log to Parquet files.
fn archive_until_stopped(shared: &Shared) {
    let mut not_before = Instant::now();
    while !shared.stopping() {
        std::thread::sleep(ARCHIVER_TICK);
        if Instant::now() < not_before {
            continue;
        }
        if let Err(error) = shared.stores.archive_due() {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(error, "events stay in the log; archiving will be tried again");
            not_before = Instant::now() + ARCHIVER_PAUSE;
        }
    }
}

/// Archives what the drained sessions left in the log; on a thread of its own, so that a slow disk cannot hold the
/// process beyond its deadline. Whether all is archived; `None` when that was not known in time.
fn flush(shared: &Arc<Shared>, end: Instant) -> Option<bool> {
    let shared = shared.clone();
    let run = move || {
        let flushed = shared.stores.flush();
        if let Err(error) = flushed {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(error, "events stay in the log for the next start");
            return false;
        }
        true
    };
    let thread = std::thread::Builder::new().name("flush".to_owned()).spawn(run).ok()?;
    join_until(thread, end)
}

/// What the thread returned; `None` when it was not done in time, or panicked.
fn join_until<T>(thread: JoinHandle<T>, end: Instant) -> Option<T> {
    while !thread.is_finished() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    if thread.is_finished() { thread.join().ok() } else { None }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The default data directory: `/var/lib/watchfire` for root, `~/.local/share/watchfire` for others.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/watchfire");
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    Path::new(&home).join(".local/share/watchfire")
}
