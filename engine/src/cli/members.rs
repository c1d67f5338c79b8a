//! `ringlite cluster ADDR status|add|assign|remove|transfer`: the members, looked at and changed.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::cluster::ClusterError;
use super::output::{Format, print_json, print_object_table, print_table};
use super::split_addresses;
use crate::client::{Client, ClientError, ClientOptions};
use crate::wire::{Role, ServerEntry};

/// For each of the members that are asked how far they are.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);
/// A change is asked for again if the leader changes meanwhile; removing the leader takes two.
const ATTEMPTS: usize = 5;

/// What a member is to do.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum RoleArgument {
    /// Has all data and votes
    Voter,
    /// Has all data, and can become a voter at once
    Standby,
    /// Has no data
    Spare,
    /// What the leader chooses, as if none had ever been assigned
    Auto,
}

impl From<RoleArgument> for Option<Role> {
    fn from(role: RoleArgument) -> Self {
        match role {
            RoleArgument::Voter => Some(Role::Voter),
            RoleArgument::Standby => Some(Role::Standby),
            RoleArgument::Spare => Some(Role::Spare),
            RoleArgument::Auto => None,
        }
    }
}

/// A change of the members.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Add { address: String, id: u64 },
    Assign { member: String, role: RoleArgument },
    Remove { member: String },
    Transfer { to: Option<String> },
}

/// Makes the change, through the leader.
pub(crate) fn change(addresses: &str, change: &Change) -> Result<(), ClusterError> {
    let options = ClientOptions {
        // The leader waits for a member to catch up, and says so if it does not.
        request_timeout: Duration::from_secs(60),
        ..ClientOptions::default()
    };
    let mut client = Client::connect(&split_addresses(addresses), options)?;
    for attempt in 1.. {
        match change_once(&mut client, change) {
            Err(ClusterError::Client(error)) if error.is_not_leader() && attempt < ATTEMPTS => {
                client.reconnect()?;
            }
            // A leader that was asked before, and left then, has removed it.
            Err(ClusterError::NoMember { .. })
                if attempt > 1 && matches!(change, Change::Remove { .. }) =>
            {
                return Ok(());
            }
            result => return result,
        }
    }
    Ok(())
}

fn change_once(client: &mut Client, change: &Change) -> Result<(), ClusterError> {
    match change {
        Change::Add { address, id } => client.add_member(*id, address)?,
        Change::Assign { member, role } => {
            let id = find(client, member)?.id;
            client.assign_role(id, *role)?;
        }
        Change::Remove { member } => {
            let id = find(client, member)?.id;
            client.remove_member(id)?;
        }
        Change::Transfer { to } => {
            let to = match to {
                Some(member) => find(client, member)?.id,
                None => 0,
            };
            client.transfer_leadership(to)?;
        }
    }
    Ok(())
}

/// The member that an id or an address names.
fn find(client: &mut Client, name: &str) -> Result<ServerEntry, ClusterError> {
    let members = client.cluster()?;
    let id = name.parse().ok();
    let mut found = members.iter().cloned();
    found
        .find(|member| Some(member.id) == id || member.address == name)
        .ok_or_else(|| ClusterError::NoMember {
            name: name.to_owned(),
            members: members
                .iter()
                .map(|member| format!("{} at {}", member.id, member.address))
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// The state of the node at `address`, and of all members as the leader sees them and as they say
/// themselves.
pub(crate) fn status(address: &str) -> Result<Value, ClientError> {
    let mut status = Client::connect_to(address)?.status()?;
    let leader = status["leader"]["address"].as_str().map(str::to_owned);
    if let Some(leader) = leader.filter(|leader| leader != address)
        && let Ok(of_leader) = ask(&leader)
    {
        status["members"] = of_leader["members"].clone();
    }
    if let Some(members) = status["members"].as_array_mut() {
        thread::scope(|scope| {
            for member in members {
                scope.spawn(|| {
                    let address = member["address"].as_str().unwrap_or_default();
                    let applied = ask(address).ok().map(|own| own["applied_index"].clone());
                    member["reachable"] = applied.is_some().into();
                    member["applied_index"] = applied.unwrap_or(Value::Null);
                });
            }
        });
    }
    Ok(status)
}

/// The state of a node that may not be there.
fn ask(address: &str) -> Result<Value, ClientError> {
    let options = ClientOptions {
        connect_timeout: MEMBER_TIMEOUT,
        request_timeout: MEMBER_TIMEOUT,
        ..ClientOptions::default()
    };
    Client::connect_to_with(address, options)?.status()
}

/// Prints what [`status`] has found.
pub(crate) fn print_status(out: &mut impl Write, status: &Value, format: Format) -> io::Result<()> {
    if format == Format::Json {
        print_json(out, status)?;
        return out.flush();
    }
    let mut own = status.clone();
    let members = own
        .as_object_mut()
        .and_then(|own| own.remove("members"))
        .unwrap_or_default();
    let shards = own
        .as_object_mut()
        .and_then(|own| own.remove("shards"))
        .unwrap_or_default();
    print_object_table(out, &own)?;
    if let Some(shards) = shards.as_array() {
        print_shards(out, shards)?;
    }
    let header = [
        "id", "address", "role", "assigned", "state", "matched", "lag", "applied", "domain",
        "weight",
    ];
    let members = members.as_array().map_or(&[][..], Vec::as_slice);
    print_table(out, &header, members.iter().map(row))?;
    out.flush()
}

/// What the node is in each of its shards.
fn print_shards(out: &mut impl Write, shards: &[Value]) -> io::Result<()> {
    let header = [
        "shard",
        "role",
        "leader",
        "term",
        "commit",
        "applied",
        "last",
        "databases",
        "sessions",
    ];
    let rows = shards.iter().map(|shard| {
        let databases = shard["databases"].as_array().map_or(0, Vec::len);
        vec![
            text(&shard["shard"]),
            text(&shard["role"]),
            text(&shard["leader"]["id"]),
            text(&shard["term"]),
            text(&shard["commit_index"]),
            text(&shard["applied_index"]),
            text(&shard["last_index"]),
            databases.to_string(),
            text(&shard["sessions"]),
        ]
    });
    print_table(out, &header, rows)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn row(member: &Value) -> Vec<String> {
    let text = |name: &str| text(&member[name]);
    vec![
        text("id"),
        text("address"),
        text("role"),
        text("assigned"),
        state(member),
        text("matched_index"),
        text("lag"),
        text("applied_index"),
        text("failure_domain"),
        text("weight"),
    ]
}

/// Since when a member is gone, if it is.
fn state(member: &Value) -> String {
    const SILENT_MS: u64 = 1_000;
    let silent_ms = member["silent_ms"].as_u64();
    if member["joined"] == false {
        return "has not joined yet".into();
    }
    if member["leader"] == true {
        return "leads".into();
    }
    match silent_ms {
        Some(ms) if ms >= SILENT_MS => format!("gone for {} s", ms / 1_000),
        _ if member["reachable"] == false => "cannot be reached".into(),
        _ => "here".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of_two() -> Value {
        serde_json::json!({
            "id": 1,
            "role": "leader",
            "term": 4,
            "members": [
                {"id": 1, "address": "a:1", "role": "voter", "leader": true, "joined": true,
                 "matched_index": 90, "lag": 0, "applied_index": 90, "failure_domain": 0,
                 "weight": 0, "silent_ms": 0, "reachable": true},
                {"id": 2, "address": "b:1", "role": "standby", "assigned": "spare", "leader": false,
                 "joined": true,
                 "matched_index": 80, "lag": 10, "applied_index": null, "failure_domain": 7,
                 "weight": 3, "silent_ms": 12_345, "reachable": false},
            ],
        })
    }

    #[test]
    fn the_table_tells_who_leads_and_since_when_another_one_is_gone() {
        let mut out = Vec::new();
        print_status(&mut out, &status_of_two(), Format::Table).unwrap();
        let text = String::from_utf8(out).unwrap();
        for words in ["leads", "gone for 12 s", "standby", "spare", "b:1", "term"] {
            assert!(text.contains(words), "{words:?} in\n{text}");
        }
        assert!(!text.contains("members"), "{text}");
    }

    #[test]
    fn the_json_is_what_was_found() {
        let mut out = Vec::new();
        print_status(&mut out, &status_of_two(), Format::Json).unwrap();
        let read: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(read, status_of_two());
    }
}
