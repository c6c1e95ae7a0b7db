//! An engine upgrade with real servers, in the same steps as ElastiCache: a replica of the new engine synchronises,
//! becomes the primary, and gets the endpoint's name; the old primary answers READONLY and is then stopped.
//!
//! Both servers use the same port, on two loopback addresses (Linux accepts all of 127.0.0.0/8). The name is a line in
//! a hosts file, which a mount namespace shows as /etc/hosts.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::real::{Real, free_port};
use super::scripted::{LIMIT, eventually};

/// The endpoint's name.
pub const NAME: &str = "cache.test";

const OLD: Ipv4Addr = Ipv4Addr::LOCALHOST;
const NEW: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The two servers and the name. The methods are listed in the order of the upgrade steps.
pub struct Upgrade {
    pub old: Real,
    pub new: Real,
    folder: TempDir,
}

impl Upgrade {
    /// Starts the old engine as the primary, to which the name points, and the new one as its replica, in sync with it.
    pub fn start(old: &Path, new: &Path) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        fs::write(folder.path().join("hosts"), hosts(OLD)).expect("a hosts file");

        for _ in 0..10 {
            let port = free_port();
            let primary = format!("--repl-diskless-sync-delay 0 --replica-announce-ip {OLD}");
            let replica = format!("--replicaof {OLD} {port} --replica-announce-ip {NEW}");
            let Some(old) = Real::start_at(old, OLD, port, &primary) else { continue };
            let Some(new) = Real::start_at(new, NEW, port, &replica) else { continue };

            new.wait_in_sync();
            return Upgrade { old, new, folder };
        }
        panic!("no port is free on both addresses, or a server did not start");
    }

    pub fn port(&self) -> u16 {
        self.old.port()
    }

    /// The address to which the name points now.
    pub fn endpoint(&self) -> SocketAddrV4 {
        let text = fs::read_to_string(self.hosts()).expect("the hosts file");
        SocketAddrV4::new(if text == hosts(NEW) { NEW } else { OLD }, self.port())
    }

    /// The words before a command line with which the command can resolve the name.
    pub fn surroundings(&self) -> Vec<String> {
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        let hosts = self.hosts().display().to_string();
        ["unshare", "-rm", "sh", "-c", script, &hosts].map(str::to_owned).into()
    }

    /// Makes the replica the primary and the primary its replica.
    pub fn fail_over(&self) {
        let reply = self.old.command(&format!("FAILOVER TO {NEW} {} TIMEOUT 20000", self.port()));
        assert_eq!(reply, "+OK");
    }

    /// Whether the old server is a replica and the new one its primary.
    pub fn has_failed_over(&self) -> bool {
        let role = |server: &Real| server.info("INFO replication", "role");
        role(&self.old) == "slave" && role(&self.new) == "master"
    }

    pub fn wait_failed_over(&self) {
        assert!(eventually(LIMIT, || self.has_failed_over()), "the new server did not become the primary");
    }

    /// Closes the connections of the old server, except for replication.
    pub fn cut(&self) {
        let reply = self.old.command("CLIENT KILL TYPE normal SKIPME yes");
        assert!(reply.starts_with(':'), "{reply}");
    }

    /// Points the name to the new server.
    pub fn move_name(&self) {
        // Overwritten in place with the same length, because this file is mounted, and because a concurrent lookup must
        // read one address or the other.
        let file = File::options().write(true).open(self.hosts()).expect("the hosts file");
        file.write_all_at(hosts(NEW).as_bytes(), 0).expect("written");
    }

    /// Stops the old server.
    pub fn retire(&mut self) {
        self.old.kill();
    }

    fn hosts(&self) -> PathBuf {
        self.folder.path().join("hosts")
    }
}

fn hosts(address: Ipv4Addr) -> String {
    format!("{address} {NAME}\n")
}
