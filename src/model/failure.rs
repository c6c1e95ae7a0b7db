//! The fixed set of reasons why a check fails, and how I/O errors and error replies map to them.
//!
//! A failure is logged as `kind: detail`: the kind is for programs, the detail for people.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;

use crate::model::text::{MAX_TEXT, Printable};

/// Why a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The name could not be resolved.
    Dns,
    /// Nothing listens at the address.
    Refused,
    /// There is no route to the address.
    Unreachable,
    /// The deadline passed; the detail names the phase that timed out.
    Timeout,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection before it answered.
    Closed,
    /// The TLS handshake failed.
    Tls,
    /// `NOAUTH`, `WRONGPASS` or another refusal of the credentials.
    Auth,
    /// `NOPERM`: the ACL user may not run the command.
    NoPerm,
    /// `LOADING`: the server is reading its data set into memory.
    Loading,
    /// `READONLY`: a write reached a replica.
    ReadOnly,
    /// `MASTERDOWN`: a replica has lost its primary and refuses stale reads.
    MasterDown,
    /// `CLUSTERDOWN`: the cluster does not serve the slot.
    ClusterDown,
    /// The server's connection limit is reached.
    MaxClients,
    /// The server has no database with this index.
    NoSuchDb,
    /// `BUSY`: a script or function blocks the server.
    Busy,
    /// `MISCONF`: the server refuses commands because it cannot save to disk.
    MisConf,
    /// `OOM`: the server refuses writes because its memory is full.
    OutOfMemory,
    /// `NOREPLICAS`: a primary refuses writes because too few replicas are in sync.
    NoReplicas,
    /// The server does not have the expected role.
    Role,
    /// The canary key that was read back is not the one that was written.
    Canary,
    /// The reply is not valid Redis protocol.
    Protocol,
    /// Any other error.
    Error,
    /// The check could not be made for a reason on our side, such as too many open files. It says nothing about the
    /// server; see [`Verdict::NotObserved`](crate::model::outcome::Verdict::NotObserved).
    Local,
}

impl Kind {
    /// All kinds, in the order of the README.
    pub const ALL: [Kind; 24] = [
        Kind::Dns,
        Kind::Refused,
        Kind::Unreachable,
        Kind::Timeout,
        Kind::Reset,
        Kind::Closed,
        Kind::Tls,
        Kind::Auth,
        Kind::NoPerm,
        Kind::Loading,
        Kind::ReadOnly,
        Kind::MasterDown,
        Kind::ClusterDown,
        Kind::MaxClients,
        Kind::NoSuchDb,
        Kind::Busy,
        Kind::MisConf,
        Kind::OutOfMemory,
        Kind::NoReplicas,
        Kind::Role,
        Kind::Canary,
        Kind::Protocol,
        Kind::Error,
        Kind::Local,
    ];

    /// The name in the logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Dns => "dns",
            Kind::Refused => "refused",
            Kind::Unreachable => "unreachable",
            Kind::Timeout => "timeout",
            Kind::Reset => "reset",
            Kind::Closed => "closed",
            Kind::Tls => "tls",
            Kind::Auth => "auth",
            Kind::NoPerm => "noperm",
            Kind::Loading => "loading",
            Kind::ReadOnly => "readonly",
            Kind::MasterDown => "masterdown",
            Kind::ClusterDown => "clusterdown",
            Kind::MaxClients => "maxclients",
            Kind::NoSuchDb => "no-such-db",
            Kind::Busy => "busy",
            Kind::MisConf => "misconf",
            Kind::OutOfMemory => "oom",
            Kind::NoReplicas => "noreplicas",
            Kind::Role => "role",
            Kind::Canary => "canary",
            Kind::Protocol => "protocol",
            Kind::Error => "error",
            Kind::Local => "local",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is not a [`Kind`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of failure")]
pub struct UnknownKind;

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or(UnknownKind)
    }
}

/// A phase of a check that can time out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Resolving the host name.
    Resolve(String),
    /// Opening the connection to this address.
    Connect(String),
    /// Negotiating TLS with this address.
    Tls(String),
    /// Waiting for the reply to this command.
    Reply(&'static str),
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Resolve(host) => write!(f, "no answer to the name look-up of {host}"),
            Phase::Connect(address) => write!(f, "no connection to {address}"),
            Phase::Tls(address) => write!(f, "no TLS handshake with {address}"),
            Phase::Reply(command) => write!(f, "no reply to {command}"),
        }
    }
}

/// Why a check failed.
///
/// `Display` gives the line for the logs: one line, printable, at most [`MAX_TEXT`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    /// For an error reply it is the wire text. With the kind before it, it has at most [`MAX_TEXT`] bytes.
    pub detail: Printable,
}

impl Failure {
    pub fn new(kind: Kind, detail: impl AsRef<str>) -> Self {
        let limit = MAX_TEXT - kind.as_str().len() - ": ".len();
        Failure { kind, detail: Printable::new(detail.as_ref(), limit) }
    }

    /// A check could not be made for this reason on our side.
    pub fn local(reason: impl AsRef<str>) -> Self {
        Failure::new(Kind::Local, reason)
    }

    /// The system refused to start a thread for a check.
    pub fn no_thread(error: &io::Error) -> Self {
        Failure::local(format!("no thread: {}", lower_first(&error_text(error))))
    }

    /// Whether the check could not be made for a reason on our side.
    pub fn is_local(&self) -> bool {
        self.kind == Kind::Local
    }

    /// Appends advice to the detail, in brackets.
    #[must_use]
    pub fn with_advice(self, advice: &str) -> Self {
        Failure::new(self.kind, format!("{} ({advice})", self.detail))
    }

    /// Whether the server rejected the password, so that a newer one may be accepted.
    pub fn is_wrong_password(&self) -> bool {
        self.kind == Kind::Auth
            && ["WRONGPASS", "ERR invalid password"].iter().any(|text| self.detail.starts_with(text))
    }

    /// The deadline passed in `phase`; `limit` is the time limit of the whole check.
    pub fn timeout(phase: &Phase, limit: Duration) -> Self {
        Failure::new(Kind::Timeout, format!("{phase} within {}", humantime::format_duration(limit)))
    }

    /// The system's resolver found no address for a name.
    pub fn dns(host: &str, error: &io::Error) -> Self {
        if let Some(reason) = local_reason(error) {
            return Failure::local(format!("name look-up: {reason}"));
        }
        let text = error_text(error);
        let reason = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
        Failure::new(Kind::Dns, format!("{host}: {reason}"))
    }

    /// Classifies an error reply. `wire` is its text without the leading `-`.
    ///
    /// The codes are from Redis's `server.c` (`createSharedObjects`) and `networking.c`. A full server and an index out
    /// of range both use the code `ERR`, so they are recognised by their text.
    pub fn from_reply(wire: &str) -> Self {
        let (code, rest) = wire.split_once(' ').unwrap_or((wire, ""));
        let kind = match code {
            "NOAUTH" | "WRONGPASS" => Kind::Auth,
            "NOPERM" => Kind::NoPerm,
            "LOADING" => Kind::Loading,
            "READONLY" => Kind::ReadOnly,
            "MASTERDOWN" => Kind::MasterDown,
            "CLUSTERDOWN" => Kind::ClusterDown,
            "BUSY" => Kind::Busy,
            "MISCONF" => Kind::MisConf,
            "OOM" => Kind::OutOfMemory,
            "NOREPLICAS" => Kind::NoReplicas,
            "ERR" if rest.starts_with("max number of clients") => Kind::MaxClients,
            "ERR" if NO_SUCH_DB.iter().any(|text| rest.starts_with(text)) => Kind::NoSuchDb,
            "ERR" if AUTH_REFUSED.iter().any(|text| rest.starts_with(text)) => Kind::Auth,
            _ => Kind::Error,
        };
        Failure::new(kind, wire)
    }
}

/// The length of the fixed text at the beginning of an error reply, in bytes. What follows it may quote user input.
/// Most of these texts are in `server.c` of Redis and Valkey (`createSharedObjects`).
pub fn known_prefix_length(wire: &str) -> usize {
    KNOWN_PREFIXES.iter().filter(|text| wire.starts_with(**text)).map(|text| text.len()).max().unwrap_or(0)
}

const KNOWN_PREFIXES: [&str; 42] = [
    "ERR ",
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
    "ERR Client sent AUTH, but no password is set",
    "ERR invalid password",
    "ERR operation not permitted",
    "ERR unknown command",
    "ERR syntax error",
    "ERR wrong number of arguments for ",
    "ERR DB index is out of range",
    "ERR invalid DB index",
    "ERR SELECT is not allowed in cluster mode",
    "ERR max number of clients reached",
    "ERR max number of clients + cluster connections reached",
    "ERR This instance has cluster support disabled",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM ",
    "NOPERM this user has no permissions to run the '",
    "NOPERM this user has no permissions to access one of the keys used as arguments",
    "NOPERM No permissions to access a key",
    "NOPERM No permissions to access database",
    "NOPERM User ",
    "LOADING Redis is loading the dataset in memory",
    "LOADING Valkey is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "READONLY You can't write against a read only slave.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "MASTERDOWN Link with MASTER is down and slave-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "CLUSTERDOWN Hash slot not served",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.",
    "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "BUSY Valkey is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "MISCONF Errors writing to the AOF file: ",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "NOREPLICAS Not enough good replicas to write.",
    "DENIED Redis is running in protected mode because ",
    "MOVED ",
    "ASK ",
];

/// The error texts for an index that does not exist: of Redis 4 and newer, of older versions, of cluster mode before
/// Valkey 9.
const NO_SUCH_DB: [&str; 3] = ["DB index is out of range", "invalid DB index", "SELECT is not allowed in cluster mode"];

/// The error texts for AUTH of engines without ACLs (before Redis 6) and of servers without a password.
const AUTH_REFUSED: [&str; 3] = ["invalid password", "Client sent AUTH", "AUTH <password> called without"];

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Io;
        if let Some(reason) = local_reason(&error) {
            return Failure::local(reason);
        }
        let kind = match error.kind() {
            // If the file of a Unix socket is missing, no server listens there.
            Io::ConnectionRefused | Io::NotFound => Kind::Refused,
            Io::HostUnreachable | Io::NetworkUnreachable | Io::NetworkDown => Kind::Unreachable,
            Io::TimedOut => Kind::Timeout,
            Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe => Kind::Reset,
            Io::UnexpectedEof => Kind::Closed,
            Io::InvalidData => Kind::Protocol,
            _ => Kind::Error,
        };
        Failure::new(kind, error_text(&error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)
    }
}

/// Why this process or its machine could not do what was asked, in words. None if the error may be due to the server or
/// the network.
///
/// A connection is refused permission by the mode of a Unix socket or by a local firewall, never by the server
/// (connect(2)). A name lookup out of memory has no error number, only a text (gai_strerror(3), EAI_MEMORY).
pub fn local_reason(error: &io::Error) -> Option<String> {
    const NO_MEMORY: &str = "Memory allocation failure";

    let reason = match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::ACCESS | Errno::PERM) => {
            error_text(error)
        }
        Some(Errno::ADDRNOTAVAIL) => format!("no free local port or address: {}", lower_first(&error_text(error))),
        Some(_) => return None,
        None if error.kind() == io::ErrorKind::OutOfMemory || error.to_string().ends_with(NO_MEMORY) => {
            "out of memory".to_owned()
        }
        None => return None,
    };
    Some(lower_first(&reason))
}

/// The text with a small first letter, because it follows a colon.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// The text of an I/O error without the suffix ` (os error 111)` that Rust adds.
fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_replies_become_kinds() {
        for (wire, kind) in [
            ("NOAUTH Authentication required.", Kind::Auth),
            ("WRONGPASS invalid username-password pair or user is disabled.", Kind::Auth),
            ("ERR invalid password", Kind::Auth),
            ("NOPERM this user has no permissions to run the 'ping' command", Kind::NoPerm),
            ("LOADING Redis is loading the dataset in memory", Kind::Loading),
            ("READONLY You can't write against a read only replica.", Kind::ReadOnly),
            ("MASTERDOWN Link with MASTER is down", Kind::MasterDown),
            ("CLUSTERDOWN The cluster is down", Kind::ClusterDown),
            ("ERR max number of clients reached", Kind::MaxClients),
            ("ERR max number of clients + cluster connections reached", Kind::MaxClients),
            ("ERR DB index is out of range", Kind::NoSuchDb),
            ("ERR SELECT is not allowed in cluster mode", Kind::NoSuchDb),
            ("BUSY Redis is busy running a script.", Kind::Busy),
            ("MISCONF Redis is configured to save RDB snapshots", Kind::MisConf),
            ("OOM command not allowed when used memory > 'maxmemory'.", Kind::OutOfMemory),
            ("NOREPLICAS Not enough good replicas to write.", Kind::NoReplicas),
            ("ERR unknown command 'PING'", Kind::Error),
            ("DENIED Redis is running in protected mode", Kind::Error),
            ("", Kind::Error),
        ] {
            let failure = Failure::from_reply(wire);
            assert_eq!(failure.kind, kind, "{wire}");
            assert_eq!(failure.detail, wire);
        }
    }

    #[test]
    fn only_a_rejected_password_calls_for_another() {
        for (wire, wrong) in [
            ("WRONGPASS invalid username-password pair or user is disabled.", true),
            ("ERR invalid password", true),
            ("NOAUTH Authentication required.", false),
            ("ERR Client sent AUTH, but no password is set", false),
            ("ERR AUTH <password> called without any password configured for the default user.", false),
            ("LOADING Redis is loading the dataset in memory", false),
            ("ERR unknown command 'AUTH'", false),
        ] {
            assert_eq!(Failure::from_reply(wire).is_wrong_password(), wrong, "{wire}");
        }
    }

    #[test]
    fn io_errors_become_kinds_with_errnos_text() {
        for (errno, line) in [
            (111, "refused: Connection refused"),
            (104, "reset: Connection reset by peer"),
            (32, "reset: Broken pipe"),
            (110, "timeout: Connection timed out"),
            (101, "unreachable: Network is unreachable"),
            (113, "unreachable: No route to host"),
            (11, "error: Resource temporarily unavailable"),
            (24, "local: too many open files"),
            (23, "local: too many open files in system"),
            (99, "local: no free local port or address: cannot assign requested address"),
            (12, "local: cannot allocate memory"),
            (105, "local: no buffer space available"),
            (13, "local: permission denied"),
            (1, "local: operation not permitted"),
        ] {
            assert_eq!(Failure::from(io::Error::from_raw_os_error(errno)).to_string(), line);
        }
    }

    #[test]
    fn a_lookup_that_fails_for_want_of_descriptors_or_memory_is_local() {
        let of_text = |text: &str| io::Error::other(format!("failed to lookup address information: {text}"));
        for (error, line) in [
            (io::Error::from_raw_os_error(24), "local: name look-up: too many open files"),
            (of_text("Memory allocation failure"), "local: name look-up: out of memory"),
            (of_text("Name or service not known"), "dns: h: Name or service not known"),
            (io::Error::from_raw_os_error(111), "dns: h: Connection refused"),
        ] {
            assert_eq!(Failure::dns("h", &error).to_string(), line);
        }
    }

    #[test]
    fn kinds_read_back() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!("PONG".parse::<Kind>(), Err(UnknownKind));
    }

    #[test]
    fn a_failure_is_one_printable_line() {
        let failure = Failure::new(Kind::Error, "a\r\nb\tc\x1b[31md\0e\u{202e}f");
        assert_eq!(failure.to_string(), "error: a\\r\\nb\\tc\\u{1b}[31md\\u{0}e\\u{202e}f");
    }

    #[test]
    fn a_long_failure_is_cut_at_a_character() {
        for detail in ["x".repeat(400), "ü".repeat(400), "\n".repeat(400), "𝄞".repeat(400)] {
            let line = Failure::new(Kind::Error, detail).to_string();
            assert!(line.len() <= MAX_TEXT && line.len() > MAX_TEXT - 8, "{}", line.len());
            assert!(line.ends_with('…'));
        }
        let whole = "x".repeat(MAX_TEXT - "error: ".len());
        assert_eq!(Failure::new(Kind::Error, whole.clone()).to_string(), format!("error: {whole}"));
    }
}
