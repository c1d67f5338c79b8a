//! What SQL may not do here, because it would leave the replicated database or break the node.
//!
//! SQLite asks the authorizer about each action of a statement while it compiles it, and says no
//! more than "not authorized" when one is refused. So the reason is left with the connection, where
//! whoever called SQLite finds it ([`observe`]). Not with the thread: a call of SQLite may come back
//! on another one than it was made on.

use std::ffi::{CStr, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ffi};

use ringlite_vfs::PageSize;

use crate::shards::ShardPlace;

use super::pragmas::{self, Verdict};
use super::statement::Special;

/// Why SQLite was told to refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// For this reason, a sentence for the client.
    Because(String),
    /// `VACUUM INTO` names a file that may be written, but not by this VFS: run
    /// [`vacuum_into`] instead.
    VacuumInto(PathBuf),
}

/// What a call of SQLite is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Compiling a text.
    Prepare,
    /// Compiling a statement of the node's own, to which everything is allowed.
    Own,
    /// Running a statement, which compiles statements of its own for VACUUM.
    Step,
    /// Running ATTACH or DETACH, which may be compiled anew.
    Attach,
    /// Running [`vacuum_into`].
    VacuumInto,
}

/// What the authorizer has seen during a call.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) refusal: Option<Refusal>,
    /// A statement that attaches or detaches was compiled.
    pub(super) special: Option<Special>,
}

/// What the authorizer and the caller of SQLite tell each other.
struct Conversation {
    call: Call,
    observed: Observed,
}

/// Shared by the authorizer of a connection and, as client data of the connection, by its callers.
type Shared = Arc<Mutex<Conversation>>;

/// The name of the client data.
const CLIENT_DATA: &CStr = c"ringlite conversation";

fn lock(conversation: &Mutex<Conversation>) -> MutexGuard<'_, Conversation> {
    conversation.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The conversation of a connection with an authorizer of ours.
fn conversation_of(connection: &Connection) -> Option<&Mutex<Conversation>> {
    // SAFETY: the connection is open. The client data of this name is a share of the conversation
    // that `install` leaves there until the connection is closed.
    unsafe {
        let data = ffi::sqlite3_get_clientdata(connection.handle(), CLIENT_DATA.as_ptr());
        data.cast::<Mutex<Conversation>>().as_ref()
    }
}

/// Gives back the share that a connection has of its conversation.
unsafe extern "C" fn drop_shared(data: *mut c_void) {
    // SAFETY: SQLite calls this once for what `install` has made of a share.
    drop(unsafe { Shared::from_raw(data.cast()) });
}

/// Calls SQLite, and also returns what the authorizer has seen.
pub(super) fn observe<T>(
    connection: &Connection,
    call: Call,
    sqlite: impl FnOnce() -> T,
) -> (T, Observed) {
    let conversation = conversation_of(connection);
    if let Some(conversation) = conversation {
        *lock(conversation) = Conversation {
            call,
            observed: Observed::default(),
        };
    }
    let result = sqlite();
    let observed = conversation
        .map(|conversation| std::mem::take(&mut lock(conversation).observed))
        .unwrap_or_default();
    (result, observed)
}

/// What the operator and the database allow a session.
#[derive(Clone, Debug)]
pub(super) struct Permissions {
    /// The size of the database's pages, in bytes.
    pub(super) page_bytes: u32,
    /// Where `VACUUM INTO` may write; nowhere if it is `None`.
    pub(super) vacuum_directory: Option<Arc<Path>>,
    /// The shard whose other databases may be attached; `None`: none may.
    pub(super) attaches_in: Option<ShardPlace>,
}

/// Makes the connection ask for permission.
pub(super) fn install(
    connection: &mut Connection,
    permissions: Permissions,
) -> rusqlite::Result<()> {
    let conversation = Shared::new(Mutex::new(Conversation {
        call: Call::Prepare,
        observed: Observed::default(),
    }));
    let share = Shared::into_raw(Shared::clone(&conversation));
    // SAFETY: the connection is open; the share is given back by the destructor, which SQLite also
    // calls if it fails.
    let code = unsafe {
        ffi::sqlite3_set_clientdata(
            connection.handle(),
            CLIENT_DATA.as_ptr(),
            share.cast_mut().cast(),
            Some(drop_shared),
        )
    };
    if code != ffi::SQLITE_OK {
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
    }
    connection.authorizer(Some(move |context: AuthContext<'_>| {
        let mut conversation = lock(&conversation);
        let special = match context.action {
            AuthAction::Attach { filename } => Some(Special::Attach(filename.into())),
            // A name that is no literal is not told, so that the action is unknown.
            AuthAction::Detach { .. }
            | AuthAction::Unknown {
                code: ffi::SQLITE_DETACH,
                ..
            } => Some(Special::Detach),
            _ => None,
        };
        if special.is_some() {
            conversation.observed.special = special;
        }
        match permissions.decide(conversation.call, &context) {
            Ok(authorization) => authorization,
            Err(refusal) => {
                conversation.observed.refusal = Some(refusal);
                Authorization::Deny
            }
        }
    }))
}

impl Permissions {
    fn decide(&self, call: Call, context: &AuthContext<'_>) -> Result<Authorization, Refusal> {
        let because = |reason: String| Err(Refusal::Because(reason));
        match context.action {
            _ if call == Call::Own => Ok(Authorization::Allow),
            AuthAction::Attach { filename } => match call {
                Call::Prepare | Call::Own | Call::Attach => {
                    let attachable = self.check_attachable(filename);
                    attachable.map_or_else(because, |()| Ok(Authorization::Allow))
                }
                // VACUUM attaches its target while it runs; it is a nameless temporary database
                // unless INTO names one.
                _ if filename.is_empty() => Ok(Authorization::Allow),
                Call::VacuumInto => Ok(Authorization::Allow),
                Call::Step => Err(match self.vacuum_target(filename) {
                    Ok(path) => Refusal::VacuumInto(path),
                    Err(reason) => Refusal::Because(reason),
                }),
            },
            // A name that is no literal is not told, so that the action is unknown.
            AuthAction::Unknown {
                code: ffi::SQLITE_ATTACH,
                ..
            } => because(
                "ATTACH is refused here unless the name of the database is written out in the \
                 statement: no parameter, and no expression"
                    .into(),
            ),
            AuthAction::Detach { .. }
            | AuthAction::Unknown {
                code: ffi::SQLITE_DETACH,
                ..
            } => Ok(Authorization::Allow),
            AuthAction::Unknown { code, .. } => because(unknown(code)),
            AuthAction::Function { function_name }
                if function_name.eq_ignore_ascii_case("load_extension") =>
            {
                because(
                    "load_extension() is refused here: foreign code would run inside the node, which \
                     only its operator allows, with --extension"
                        .into(),
                )
            }
            AuthAction::Pragma {
                pragma_name,
                pragma_value,
            } => match pragmas::verdict(pragma_name, pragma_value, self.page_bytes_of(context)) {
                Verdict::Allowed => Ok(Authorization::Allow),
                Verdict::Ignored => Ok(Authorization::Ignore),
                Verdict::Refused(reason) => because(reason),
            },
            _ => Ok(Authorization::Allow),
        }
    }

    /// The size of the pages that a PRAGMA is about; the largest there are for attached databases,
    /// whose memory is to be bounded too.
    fn page_bytes_of(&self, context: &AuthContext<'_>) -> u32 {
        match context.database_name {
            None | Some("main" | "temp") => self.page_bytes,
            Some(_) => PageSize::MAX.bytes(),
        }
    }

    /// Whether a database of this name may be attached if it exists, or why it may not.
    fn check_attachable(&self, name: &str) -> Result<(), String> {
        let Some(place) = self.attaches_in else {
            return Err(
                "ATTACH is refused here: a read at the level `leader` or `local` is of one database"
                    .into(),
            );
        };
        ringlite_vfs::validate_database_name(name).map_err(|_| {
            format!(
                "ATTACH {name:?} is refused here: give the name of a database of this cluster; \
                 neither a path or URI nor a database in memory is replicated"
            )
        })?;
        if !place.owns(name) {
            return Err(format!(
                "ATTACH {name:?} is refused here: it is in another shard than this database, and a \
                 transaction cannot span two; databases whose names agree up to the first dot are in one \
                 shard"
            ));
        }
        Ok(())
    }

    /// The file that `VACUUM INTO` may write, or why it may not.
    fn vacuum_target(&self, name: &str) -> Result<PathBuf, String> {
        let Some(directory) = &self.vacuum_directory else {
            return Err(
                "VACUUM INTO is refused here: it writes a file on the machine of the node; its \
                 operator can allow a directory for it with --vacuum-into DIR"
                    .into(),
            );
        };
        let path = Path::new(name);
        let inside = path.strip_prefix(directory).unwrap_or(path);
        let mut parts = inside.components();
        match (parts.next(), parts.next()) {
            (Some(std::path::Component::Normal(part)), None) if !name.starts_with("file:") => {
                Ok(directory.join(part))
            }
            _ => Err(format!(
                "VACUUM INTO {name:?} is refused here: give the name of a file alone; it is \
                 written on the leader, in the directory that its operator allows"
            )),
        }
    }
}

fn unknown(code: c_int) -> String {
    format!("an action that this node does not know (SQLite's number {code}) is refused here")
}

/// The statement that writes the whole database of a schema to `path` with the system's own VFS.
pub(super) fn vacuum_into(schema: &str, path: &Path) -> String {
    let mut uri = String::from("file://");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                uri.push(char::from(*byte));
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    let schema = schema.replace('"', "\"\"");
    format!("VACUUM \"{schema}\" INTO '{uri}?vfs=unix'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vacuum_target_is_one_file_in_the_directory() {
        let permissions = Permissions {
            page_bytes: 4096,
            vacuum_directory: Some(Path::new("/var/backup").into()),
            attaches_in: Some(ShardPlace::LONE),
        };
        for (name, expected) in [
            ("a.db", Some("/var/backup/a.db")),
            ("/var/backup/a.db", Some("/var/backup/a.db")),
            ("/var/backup/../a.db", None),
            ("../a.db", None),
            ("/etc/a.db", None),
            ("b/a.db", None),
            (".", None),
            ("..", None),
            ("/var/backup", None),
            ("file:a.db?vfs=unix", None),
        ] {
            let found = permissions.vacuum_target(name).ok();
            assert_eq!(found.as_deref(), expected.map(Path::new), "{name}");
        }
        assert_eq!(
            vacuum_into("a\"b", Path::new("/var/it's 5%.db")),
            "VACUUM \"a\"\"b\" INTO 'file:///var/it%27s%205%25.db?vfs=unix'"
        );
    }
}
