//! The net is tested: each known bug of a list is switched on, and the simulator has to find it.

use std::ops::Range;
use std::path::Path;

use crate::sim_farm::{self, Failure};

/// A bug that can be switched on.
struct Mutation {
    /// What `mutation!` calls it.
    name: &'static str,
    /// Its number in the catalogue of bugs that others had, if it is in there.
    catalogue: &'static str,
    /// What is wrong.
    what: &'static str,
}

const fn mutation(name: &'static str, catalogue: &'static str, what: &'static str) -> Mutation {
    Mutation {
        name,
        catalogue,
        what,
    }
}

const MUTATIONS: &[Mutation] = &[
    mutation(
        "VoteNotSaved",
        "1",
        "the vote is not in the hard state that is saved",
    ),
    mutation(
        "TwoVotesInATerm",
        "1",
        "a node votes for everybody who asks in a term",
    ),
    mutation(
        "VoteBeforeSync",
        "2",
        "votes leave before the hard state is durable",
    ),
    mutation(
        "AcknowledgedBeforeSync",
        "2",
        "entries are acknowledged before they are durable",
    ),
    mutation(
        "LateCompletionCounts",
        "4",
        "the completion of a truncated append counts",
    ),
    mutation(
        "MatchingEntriesTruncate",
        "5",
        "a repeated append truncates what it matches",
    ),
    mutation(
        "UnverifiedCommits",
        "6",
        "a follower commits beyond what the message has verified",
    ),
    mutation(
        "OldTermsCountedAsCommitted",
        "8",
        "entries of older terms are committed by counting",
    ),
    mutation(
        "QuorumUnsorted",
        "9",
        "the quorum index is taken from an unsorted list",
    ),
    mutation(
        "RefusalWithoutTerm",
        "11",
        "the refusal of a pre-vote does not name the newer term",
    ),
    mutation(
        "ReadWithoutRound",
        "13",
        "reads are answered without a round of heartbeats",
    ),
    mutation(
        "ReadRoundReused",
        "14",
        "a read waits for a round that was sent before it came",
    ),
    mutation(
        "ServesBeforeItsNoop",
        "14",
        "a new leader serves before its no-op is committed",
    ),
    mutation(
        "CorruptTakenForTorn",
        "17",
        "a damaged record that was durable is cut off as torn",
    ),
    mutation(
        "DebtForgotten",
        "17",
        "a damaged log is cut, and what it promised is forgotten",
    ),
    mutation(
        "DebtorStands",
        "17",
        "a node that has lost a part of its log stands for election",
    ),
    mutation(
        "DebtorVotes",
        "17",
        "a node votes by what is left of its log",
    ),
    mutation(
        "LossNotTold",
        "17",
        "a leader is not told that what was acknowledged to it is lost",
    ),
    mutation(
        "TruncationForgotten",
        "18",
        "a restart does not know that a later epoch voids records",
    ),
    mutation(
        "CutBeforeTheManifest",
        "19",
        "the log is cut before the manifest says so",
    ),
    mutation(
        "CutBeyondTheSlowest",
        "21",
        "the log is cut where the slowest member needs it",
    ),
    mutation(
        "HalfARunIsApplied",
        "22",
        "a leader counts the first part of a run as applied",
    ),
    mutation(
        "TargetTakenForApplied",
        "23",
        "a restart takes what a file may hold for what it holds",
    ),
    mutation(
        "PartsAppliedSingly",
        "24",
        "parts of a large transaction are applied one by one",
    ),
    mutation(
        "UnfinishedRunSurvives",
        "24",
        "a new term does not discard an unfinished run",
    ),
    mutation(
        "NoTarget",
        "29",
        "a file is written before the manifest announces it",
    ),
    mutation(
        "NewestFrameBackfilled",
        "30",
        "a backfill writes frames behind the commit that it ends at",
    ),
    mutation(
        "RestartUnderReaders",
        "30",
        "a WAL is begun anew under its readers",
    ),
    mutation(
        "FilesAheadOfTheLog",
        "",
        "files are written ahead of the node's own log",
    ),
    mutation(
        "AnsweredBeforeCommit",
        "",
        "a write is answered when it is in the log, not committed",
    ),
    mutation(
        "UncommittedRead",
        "",
        "a read does not wait for the entry that it has seen",
    ),
    mutation(
        "UnknownToldAsRefused",
        "",
        "a write in flight is refused when leadership is lost",
    ),
    mutation(
        "NoRollBack",
        "",
        "a deposed leader keeps what did not commit",
    ),
    mutation(
        "OldestImageWins",
        "",
        "of two images of a page in a batch the older one is kept",
    ),
    mutation(
        "CommitOfTheTurnsEnd",
        "",
        "records that are void name a commit index that covers them",
    ),
    mutation(
        "VoteForShorterLog",
        "",
        "a vote goes to a log that lacks what this one has",
    ),
    mutation(
        "PreviousTermUnchecked",
        "",
        "an append is taken behind an entry of another term",
    ),
    mutation(
        "NoHoldForSnapshots",
        "",
        "the log is cut while a snapshot that needs it is on its way",
    ),
    mutation(
        "CopyTakenForItsBeginning",
        "",
        "a snapshot's files are said to hold what they held at its beginning",
    ),
    mutation(
        "ShownBeforeItsTarget",
        "",
        "a database that came with a snapshot is shown before it is whole",
    ),
    mutation(
        "InstallationForgotten",
        "",
        "a restart does not finish an installation",
    ),
    mutation(
        "EntriesWhileInstalling",
        "",
        "entries are taken while a snapshot takes the log's place",
    ),
    mutation(
        "MoreThanAnnounced",
        "",
        "a backfill writes what committed after its manifest",
    ),
    mutation(
        "TwoChangesAtATime",
        "",
        "a change of members is made before the last one is committed",
    ),
    mutation(
        "ChangeBeforeTheNoop",
        "",
        "a new leader changes members before its no-op is committed",
    ),
    mutation(
        "HandedOverInTheMiddle",
        "",
        "leadership is handed over while a run may still commit",
    ),
];

/// How a bug was caught.
struct Catch {
    /// How many seeds had been run by then.
    seeds: u64,
    failure: Failure,
}

/// Runs the bugs called `names`, or all if there are none, one after the other; prints a table. Returns
/// whether each was caught within the seeds.
pub fn run(binary: &Path, jobs: usize, seeds: Range<u64>, names: &[String]) -> bool {
    println!("| bug | catalogue | what is wrong | caught by | seeds |");
    println!("|---|---|---|---|---|");
    let is_wanted = |one: &&Mutation| names.is_empty() || names.iter().any(|name| name == one.name);
    let mut all_caught = true;
    for one in MUTATIONS.iter().filter(is_wanted) {
        let (by, count) = match catch(binary, jobs, seeds.clone(), one.name) {
            Some(caught) => (describe(&caught.failure), caught.seeds.to_string()),
            None => (
                "**nothing**".to_owned(),
                format!("> {}", seeds.end - seeds.start),
            ),
        };
        all_caught &= !by.contains("nothing");
        let Mutation {
            name,
            catalogue,
            what,
        } = one;
        println!("| `{name}` | {catalogue} | {what} | {by} | {count} |");
    }
    all_caught
}

fn catch(binary: &Path, jobs: usize, seeds: Range<u64>, name: &str) -> Option<Catch> {
    let mut count = 0;
    let mut caught = None;
    sim_farm::run(binary, jobs, Some(name), seeds, |report| {
        count += 1;
        if let Some(failure) = report.failure {
            let seeds = count;
            caught.get_or_insert(Catch { seeds, failure });
        }
        caught.is_none()
    });
    caught
}

fn describe(failure: &Failure) -> String {
    let place = failure.check.rsplit_once(':').map_or("", |(file, _)| file);
    let place = place.trim_start_matches("tests/src/sim/");
    let message: String = failure.message.chars().take(90).collect();
    let message = message.replace(['\n', '|'], " ");
    format!("`{place}`: {message}")
}
