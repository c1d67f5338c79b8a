//! How messages, entries and effects are written in a trace.

use ringlite_raft::{
    AppendResult, Configuration, Conflict, Effect, Entry, EntryKind, LogIndex, MemberRole, Message,
    Term,
};

fn place(term: Term, index: LogIndex) -> String {
    format!("{term}/{index}")
}

pub(crate) fn members(configuration: &Configuration) -> String {
    let members = configuration.members().iter().map(|member| {
        let mark = match member.role {
            MemberRole::Voter => "",
            MemberRole::Standby => "(standby)",
            MemberRole::Spare => "(spare)",
        };
        format!("{}{mark}", member.id)
    });
    members.collect::<Vec<_>>().join(",")
}

pub(crate) fn entry(entry: &Entry) -> String {
    let what = match entry.kind {
        EntryKind::Noop => "noop".to_owned(),
        EntryKind::Configuration => {
            let configuration = Configuration::decode(entry.payload.clone());
            format!(
                "members={}",
                members(&configuration.expect("a configuration"))
            )
        }
        EntryKind::Data | EntryKind::DataPart => {
            format!("\"{}\"", String::from_utf8_lossy(&entry.payload))
        }
    };
    format!("{} {what}", place(entry.term, entry.index))
}

fn entries(list: &[Entry]) -> String {
    format!(
        "[{}]",
        list.iter().map(entry).collect::<Vec<_>>().join("; ")
    )
}

pub(crate) fn message(message: &Message) -> String {
    match message {
        Message::PreVote {
            term,
            last_index,
            last_term,
        } => format!("PreVote {term} last={}", place(*last_term, *last_index)),
        Message::PreVoteReply { term, granted } => {
            format!("PreVoteReply {term} {}", verdict(*granted))
        }
        Message::Vote {
            term,
            last_index,
            last_term,
            by_transfer,
        } => {
            let why = if *by_transfer { " by transfer" } else { "" };
            format!("Vote {term} last={}{why}", place(*last_term, *last_index))
        }
        Message::VoteReply { term, granted } => format!("VoteReply {term} {}", verdict(*granted)),
        Message::Append {
            term,
            prev_index,
            prev_term,
            commit,
            entries: list,
            ..
        } => format!(
            "Append {term} behind {} commit={commit} {}",
            place(*prev_term, *prev_index),
            entries(list)
        ),
        Message::AppendReply { term, result } => match result {
            AppendResult::Accepted { match_index } => {
                format!("AppendReply {term} accepted up to {match_index}")
            }
            AppendResult::Rejected {
                prev_index,
                conflict,
            } => format!(
                "AppendReply {term} rejected behind {prev_index}, {}",
                hint(*conflict)
            ),
            AppendResult::Damaged {
                prev_index,
                conflict,
            } => format!(
                "AppendReply {term} damaged behind {prev_index}, {}",
                hint(*conflict)
            ),
        },
        Message::Heartbeat {
            term,
            commit,
            round,
            ..
        } => format!("Heartbeat {term} commit={commit} round={round}"),
        Message::HeartbeatReply { term, round } => format!("HeartbeatReply {term} round={round}"),
        Message::TimeoutNow { term } => format!("TimeoutNow {term}"),
        Message::Removed {
            term,
            commit,
            commit_term,
        } => format!("Removed {term} as of {}", place(*commit_term, *commit)),
    }
}

fn hint(conflict: Conflict) -> String {
    let place = place(conflict.term, conflict.index);
    format!("hint {place} from {}", conflict.first)
}

fn verdict(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}

pub(crate) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::SaveHardState { io, hard_state } => {
            let vote = hard_state
                .vote
                .map_or("-".to_owned(), |vote| vote.to_string());
            format!("{io}: save {} vote={vote}", hard_state.term)
        }
        Effect::Append {
            io,
            truncate_from,
            entries: list,
        } => {
            let cut = truncate_from.map_or(String::new(), |from| format!("truncate from {from}, "));
            format!("{io}: {cut}append {}", entries(list))
        }
        Effect::Send {
            to,
            message: sent,
            after,
        } => {
            let after = after.map_or(String::new(), |io| format!(" (after {io})"));
            format!("-> {to}: {}{after}", message(sent))
        }
        Effect::Committed { up_to } => format!("committed up to {up_to}"),
        Effect::ReadReady { id, index } => format!("read {id} ready at {index}"),
        Effect::ReadEntries {
            peer, from, up_to, ..
        } => {
            format!("read entries {from} to {up_to} for {peer}")
        }
        Effect::RoleChanged { role, term, leader } => {
            let leader = leader.map_or("nobody".to_owned(), |leader| leader.to_string());
            format!("{role} in {term}, {leader} leads")
        }
        Effect::SendSnapshot { peer } => format!("{peer} needs a snapshot"),
        Effect::ConfigurationChanged { index } => format!("members as of {index}"),
        Effect::TransferEnded { to, outcome } => format!("transfer to {to}: {outcome:?}"),
    }
}
