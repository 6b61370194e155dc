//! What a server is told before it starts.
//!
//! [`Config`] is plain data: the command line makes one, tests make their own, and nothing else
//! decides a setting. The bounds that no flag changes are constants here, each with its reason.

use std::path::PathBuf;
use std::time::Duration;

use icecore_query::engine::EngineOptions;
use icecore_query::parser::ParserOptions;
use icecore_storage::db;

/// Where the server listens unless told otherwise: this machine alone, as nothing asks who calls.
pub const LISTEN_ADDRESS: &str = "127.0.0.1:9494";

/// Prometheus's `--web.max-connections`.
pub const CONNECTIONS_MAX: usize = 512;

/// A client must send its request's head within this time, and a part of its body each time.
/// An idle connection is closed after it, too.
pub const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A body must be complete within this time.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A client that takes nothing of its answer for so long is gone.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests in flight may take to end once the server stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a form: queries with regexes of thousands of names come here.
pub const FORM_BYTES_MAX: usize = 2 << 20;

/// Bytes of write bodies held at once, as they arrive; less where memory is short.
pub const WRITE_BODIES_BYTES_MAX: usize = 64 << 20;

/// With less, the shares would be smaller than what is in them for one request.
pub const MEMORY_LIMIT_LEAST: u64 = 64 << 20;

/// Writes that are decoded and appended at once. More than there are cores, since most of them
/// wait for one fdatasync together.
pub const WRITES_MAX: usize = 32;

/// Requests for series, labels, exemplars and metadata at once; they have their own gate so that
/// autocompletion does not wait behind dashboards.
pub const LOOKUPS_MAX: usize = 20;

/// Queries that wait for others to end. More would only time out in the queue.
pub const QUERIES_WAITING_MAX: usize = 1000;

/// How often the server's own metrics are stored.
pub const SELF_METRICS_INTERVAL_MS: i64 = 15_000;

/// A week is enough for 4.8 TB of blocks, and no disk is busy with it.
pub const SCRUB_BYTES_PER_SECOND: u64 = 8 << 20;

/// Settings of one server.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port`; port 0 takes a free one.
    pub listen_address: String,
    /// The data directory.
    pub storage_path: PathBuf,
    pub storage: db::Options,
    /// What series, queries, caches and bodies may take together; those who have a share of it are
    /// told elsewhere, but bodies.
    pub memory_limit: u64,
    /// Blocks are checked at this rate; 0 checks none.
    pub scrub_bytes_per_second: u64,
    /// Whether snapshots and deletes may be asked for.
    pub enable_admin_api: bool,
    /// Read again on a reload.
    pub config_file: Option<PathBuf>,
    /// `--storage.retention`, if it was given.
    pub retention_flag_ms: Option<i64>,
    pub engine: EngineOptions,
    pub parser: ParserOptions,
    /// Queries that run at once; others wait.
    pub query_concurrency: usize,
    /// Results of range queries that are kept; 0 for none.
    pub result_cache_bytes: usize,
    /// A parsed query takes some hundred times its text.
    pub query_bytes_max: usize,
    /// Flags and their values, for `/api/v1/status/flags`.
    pub flags: Vec<(&'static str, String)>,
}

impl Config {
    /// The defaults on a data directory.
    pub fn new(storage_path: impl Into<PathBuf>) -> Config {
        Config {
            listen_address: LISTEN_ADDRESS.into(),
            storage_path: storage_path.into(),
            storage: db::Options::default(),
            memory_limit: u64::MAX,
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND,
            enable_admin_api: false,
            config_file: None,
            retention_flag_ms: None,
            engine: EngineOptions::default(),
            parser: ParserOptions::default(),
            query_concurrency: 20,
            result_cache_bytes: 64 << 20,
            query_bytes_max: 256 << 10,
            flags: Vec::new(),
        }
    }
}
