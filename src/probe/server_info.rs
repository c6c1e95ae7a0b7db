//! What a server is asked about itself: once on each connection, behind the first index's PING and in the check's own
//! round trip.

use std::sync::atomic::{AtomicBool, Ordering};

use redis::Value;

use crate::connect::{Connection, unexpected};
use crate::deadline::Deadline;
use crate::failure::{Failure, Kind, Phase};
use crate::identity::{Identity, Role};

/// Whether to ask servers who they are. What a server forbade is asked no more, since each refusal enters its ACL LOG.
#[derive(Debug, Default)]
pub struct Identify {
    pub wanted: bool,
    info_forbidden: AtomicBool,
    role_forbidden: AtomicBool,
}

/// What one connection is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Questions {
    info: bool,
    role: bool,
    /// The role that decides the verdict. HELLO gives it even to a user who may not ask ROLE.
    expected: Option<Role>,
}

impl Questions {
    pub fn any(self) -> bool {
        self.info || self.role
    }

    /// Appends the commands.
    pub fn pack(self, commands: &mut Vec<u8>) {
        if self.info {
            redis::cmd("INFO").arg("server").write_packed_command(commands);
        }
        if self.role {
            redis::cmd("ROLE").write_packed_command(commands);
        }
        if self.expected.is_some() {
            redis::cmd("HELLO").write_packed_command(commands);
        }
    }
}

impl Identify {
    pub fn new(wanted: bool) -> Self {
        Identify { wanted, ..Identify::default() }
    }

    /// What is to be asked now; `expected` is the role that a check needs to pass.
    pub fn questions(&self, expected: Option<Role>) -> Questions {
        let may = |forbidden: &AtomicBool| self.wanted && !forbidden.load(Ordering::Relaxed);
        let role = may(&self.role_forbidden) || expected.is_some();
        Questions { info: may(&self.info_forbidden), role, expected }
    }

    /// Reads what the server tells of itself, and says whether its role is the expected one.
    ///
    /// That it does not tell is no part of the verdict unless a role is expected; a connection that breaks here fails
    /// the next index.
    pub async fn learn(
        &self,
        asked: Questions,
        connection: &mut Connection,
        deadline: Deadline,
    ) -> (Option<Identity>, Result<(), Failure>) {
        let told = async {
            let mut reply = async |command| deadline.bound(|| Phase::Reply(command), connection.reply()).await;
            let info = if asked.info { Some(reply("INFO").await?) } else { None };
            let role = if asked.role { Some(reply("ROLE").await?) } else { None };
            let hello = if asked.expected.is_some() { Some(reply("HELLO").await?) } else { None };
            Ok((info, role, hello))
        };
        let (info, role, hello) = match told.await {
            Ok(replies) => replies,
            Err(failure) => return (None, if asked.expected.is_some() { Err(failure) } else { Ok(()) }),
        };
        for (reply, forbidden) in [(&info, &self.info_forbidden), (&role, &self.role_forbidden)] {
            if reply.as_ref().is_some_and(|reply| unexpected("", reply).kind == Kind::NoPerm) {
                forbidden.store(true, Ordering::Relaxed);
            }
        }
        let mut identity = Identity::default();
        if let Some(info) = &info {
            identity.read_info(info);
        }
        identity.role = role.as_ref().and_then(Role::from_reply).or_else(|| hello.as_ref().and_then(Role::from_hello));
        let verdict = match (asked.expected, identity.role) {
            (None, _) => Ok(()),
            (Some(expected), Some(found)) if expected == found => Ok(()),
            (Some(expected), Some(found)) => {
                Err(Failure::new(Kind::Role, format!("the server is a {found}, not a {expected}")))
            }
            (Some(_), None) => Err(unexpected("ROLE", &role.unwrap_or(Value::Nil))),
        };
        (Some(identity), verdict)
    }
}
