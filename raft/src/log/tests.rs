use super::*;
use crate::entry::{EntryKind, LogBase, TermRun};
use crate::types::NodeId;
use bytes::Bytes;
use std::collections::BTreeSet;

/// The term runs of a list of entries.
fn runs_of(entries: &[Entry]) -> Vec<TermRun> {
    let mut runs: Vec<TermRun> = Vec::new();
    for entry in entries {
        if runs.last().is_none_or(|run| run.term != entry.term) {
            runs.push(TermRun {
                first: entry.index,
                term: entry.term,
            });
        }
    }
    runs
}

fn entry(index: u64, term: u64) -> Entry {
    let payload = Bytes::from(vec![0; 36]);
    Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Data,
        payload,
    }
}

/// A log whose entry i + 1 has the i-th term.
fn log(terms: &[u64], commit: u64) -> Log {
    log_behind(0, terms, commit)
}

/// The same log, restored behind the entry of index `base`.
fn log_behind(base: u64, terms: &[u64], commit: u64) -> Log {
    let mut tail: Vec<Entry> = (1..)
        .zip(terms)
        .map(|(index, &term)| entry(index, term))
        .collect();
    let last = LogIndex(terms.len() as u64);
    let term = base
        .checked_sub(1)
        .map_or(0, |before| terms[before as usize]);
    tail.drain(..base as usize);
    let found = RestoredLog {
        base: LogBase {
            index: LogIndex(base),
            term: Term(term),
        },
        runs: runs_of(&tail),
        last,
        commit: LogIndex(commit.max(base)),
        tail,
        configuration: voters(),
        ..RestoredLog::default()
    };
    let log = Log::restore(found, voters(), 250).expect("a good log");
    log.check_invariants();
    log
}

fn voters() -> Configuration {
    Configuration::of_voters([1, 2, 3].map(NodeId)).expect("a configuration")
}

fn offer(log: &mut Log, prev: (u64, u64), terms: &[u64]) -> Offer {
    let entries = (prev.0 + 1..)
        .zip(terms)
        .map(|(index, &term)| entry(index, term))
        .collect::<Vec<_>>();
    let offer = log.offer(LogIndex(prev.0), Term(prev.1), entries);
    log.check_invariants();
    offer
}

fn taken(truncate: Option<u64>, new: &[(u64, u64)]) -> Offer {
    let new = new
        .iter()
        .map(|&(index, term)| entry(index, term))
        .collect();
    Offer::Taken {
        truncate: truncate.map(LogIndex),
        new,
    }
}

#[test]
fn entries_that_follow_on_are_appended() {
    assert_eq!(
        offer(&mut log(&[1, 1], 1), (2, 1), &[2, 2]),
        taken(None, &[(3, 2), (4, 2)])
    );
}

#[test]
fn a_repeated_message_leaves_the_matching_suffix_alone() {
    let mut log = log(&[1, 1, 2, 2], 1);
    assert_eq!(offer(&mut log, (1, 1), &[1, 2]), taken(None, &[]));
    assert_eq!(log.last(), LogIndex(4));
}

#[test]
fn only_from_the_first_conflicting_entry_on_is_the_log_cut() {
    let mut log = log(&[1, 1, 2, 2], 1);
    assert_eq!(offer(&mut log, (1, 1), &[1, 3]), taken(Some(3), &[(3, 3)]));
    assert_eq!((log.last(), log.last_term()), (LogIndex(3), Term(3)));
}

#[test]
fn a_committed_entry_is_never_contradicted() {
    assert_eq!(
        offer(&mut log(&[1, 1, 2], 3), (1, 1), &[1, 3]),
        Offer::AgainstCommit
    );
    assert_eq!(
        offer(&mut log(&[1, 1, 2], 3), (3, 3), &[3]),
        Offer::AgainstCommit
    );
}

#[test]
fn a_conflict_names_the_term_and_its_first_index() {
    let conflict = |index, term, first| {
        Offer::Conflict(Conflict {
            index: LogIndex(index),
            term: Term(term),
            first: LogIndex(first),
        })
    };
    assert_eq!(
        offer(&mut log(&[1, 2, 2, 2], 0), (3, 3), &[3]),
        conflict(3, 2, 2)
    );
    assert_eq!(
        offer(&mut log(&[1, 2, 2, 2], 0), (9, 3), &[3]),
        conflict(4, 2, 2)
    );
    assert_eq!(offer(&mut log(&[], 0), (9, 3), &[3]), conflict(0, 0, 0));
}

#[test]
fn backing_up_takes_one_round_per_term_and_never_skips_a_match() {
    // For all pairs of small logs: repeat the hint game and count rounds.
    let logs: Vec<Vec<u64>> = small_logs();
    for leader_terms in &logs {
        for follower_terms in &logs {
            let matched = common_prefix(leader_terms, follower_terms);
            // What both have may be cut on either side, up to different places.
            for (leader_base, follower_base) in [(0, 0), (matched / 2, matched), (matched, 0)] {
                let leader = log_behind(leader_base, leader_terms, 0);
                let mut follower = log_behind(follower_base, follower_terms, 0);
                let rounds = find_match(&leader, &mut follower, matched);
                let terms = follower_terms.iter().collect::<BTreeSet<_>>().len();
                assert!(rounds <= terms + 1, "{rounds} rounds for {terms} terms");
            }
        }
    }
}

/// Plays the leader, whose probes never go below what all members hold: the higher of the bases.
/// Returns the number of hints.
fn find_match(leader: &Log, follower: &mut Log, matched: u64) -> usize {
    let held_by_all = leader.base().max(follower.base());
    let mut prev = leader.last();
    let mut rounds = 0;
    loop {
        let prev_term = leader.term(prev).expect("prev is in the log");
        match follower.offer(prev, prev_term, Vec::new()) {
            Offer::Conflict(conflict) => {
                let next = leader.last_possible_match(conflict).max(held_by_all);
                assert!(next < prev, "no progress");
                assert!(next.0 >= matched, "a match was skipped");
                prev = next;
            }
            other => {
                assert_eq!(other, taken(None, &[]));
                return rounds;
            }
        }
        rounds += 1;
    }
}

/// All logs of up to five entries with terms from 1 to 3.
fn small_logs() -> Vec<Vec<u64>> {
    let mut logs = vec![vec![]];
    let mut done = 0;
    while done < logs.len() {
        let before = logs[done].clone();
        if before.len() < 5 {
            for term in before.last().copied().unwrap_or(1)..=3 {
                let mut longer = before.clone();
                longer.push(term);
                logs.push(longer);
            }
        }
        done += 1;
    }
    logs
}

/// Where two logs of real leaders agree: below the last index with equal terms. (Logs made up at
/// random may agree again above a difference; the protocol rules that out, the hint need not care.)
fn common_prefix(left: &[u64], right: &[u64]) -> u64 {
    left.iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count() as u64
}

#[test]
fn only_applied_and_durable_entries_leave_the_cache() {
    let mut log = log(&[1, 1, 1, 1, 1], 4);
    log.evict(LogIndex(5), LogIndex(0));
    assert_eq!(log.cache_first(), LogIndex(1));
    log.applied(LogIndex(2));
    log.evict(LogIndex(1), LogIndex(0));
    assert_eq!(log.cache_first(), LogIndex(2));
    log.applied(LogIndex(4));
    log.evict(LogIndex(5), LogIndex(0));
    // 250 bytes hold two entries of 100 bytes.
    assert_eq!(log.cache_first(), LogIndex(4));
    assert_eq!(log.entry(LogIndex(3)), None);
    assert_eq!(
        log.entry(LogIndex(4)).map(|entry| entry.index),
        Some(LogIndex(4))
    );
    assert_eq!(log.term(LogIndex(3)), Some(Term(1)));
    log.check_invariants();
}

#[test]
fn a_slice_holds_at_least_one_entry_and_at_most_its_bytes() {
    let log = log(&[1, 1, 1], 0);
    assert_eq!(log.slice(LogIndex(1), 1).len(), 1);
    assert_eq!(log.slice(LogIndex(1), 200).len(), 2);
    assert_eq!(log.slice(LogIndex(4), 200).len(), 0);
}

#[test]
fn what_cannot_be_a_log_is_refused() {
    let check = |change: fn(&mut RestoredLog), text: &str| {
        let tail = vec![entry(1, 1), entry(2, 2), entry(3, 2)];
        let commit = LogIndex(1);
        let mut found = RestoredLog {
            base: LogBase::default(),
            runs: runs_of(&tail),
            last: LogIndex(3),
            commit,
            tail,
            ..RestoredLog::default()
        };
        change(&mut found);
        let error = Log::restore(found, voters(), 1).expect_err(text);
        assert!(error.to_string().contains(text), "{error}");
    };
    check(|found| found.runs.clear(), "no log");
    check(|found| found.runs[0].first = LogIndex(2), "at i2 with t1");
    check(|found| found.runs[1].term = Term(1), "at i2 with t1");
    check(|found| found.commit = LogIndex(4), "above the last index");
    check(|found| found.tail = found.tail.split_off(2), "breaks at i2");
    check(|found| found.tail[1].term = Term(1), "breaks at i2");
    check(|found| found.tail.truncate(2), "breaks at i3");
    let check_base = |index, term, change: fn(&mut RestoredLog), text: &str| {
        check_behind(index, term, change, text);
    };
    check_base(1, 1, |_| (), "breaks at i1");
    check_base(1, 1, |found| drop(found.tail.remove(0)), "");
    check_base(1, 0, |_| (), "behind i1 of t0");
    check_base(0, 1, |_| (), "behind i0 of t1");
    check_base(2, 2, |_| (), "behind i2 of t2");
    check_base(1, 3, |_| (), "at i2 with t2");
    check_base(
        1,
        1,
        |found| found.runs[0].first = LogIndex(3),
        "at i3 with t2",
    );
    check_base(1, 1, |found| found.runs.clear(), "no log");
}

/// A log of three entries behind a base, with the first one committed; `text` is what is said of it,
/// empty if it is good.
fn check_behind(index: u64, term: u64, change: fn(&mut RestoredLog), text: &str) {
    let tail = vec![entry(1, 1), entry(2, 2), entry(3, 2)];
    let mut found = RestoredLog {
        base: LogBase {
            index: LogIndex(index),
            term: Term(term),
        },
        runs: runs_of(&tail[1..]),
        last: LogIndex(3),
        commit: LogIndex(1),
        tail,
        configuration: voters(),
        ..RestoredLog::default()
    };
    change(&mut found);
    match Log::restore(found, voters(), 1) {
        Ok(log) => {
            log.check_invariants();
            assert_eq!(text, "");
        }
        Err(error) => assert!(
            !text.is_empty() && error.to_string().contains(text),
            "{error}"
        ),
    }
}

#[test]
fn a_cut_log_is_the_log_that_is_restored_behind_the_same_base() {
    let offers: [((u64, u64), &[u64]); 9] = [
        ((0, 0), &[1, 1, 2, 2]),
        ((0, 0), &[1]),
        ((1, 1), &[1, 2]),
        ((2, 1), &[2, 2, 3]),
        ((3, 2), &[2, 2]),
        ((4, 2), &[3]),
        ((4, 2), &[]),
        ((4, 3), &[3]),
        ((6, 3), &[3]),
    ];
    for base in 1..=4 {
        for ((prev, prev_term), terms) in offers {
            let mut cut = log(&[1, 1, 2, 2, 2], 4);
            cut.applied(LogIndex(4));
            cut.cut(LogIndex(base));
            cut.check_invariants();
            let mut restored = log_behind(base, &[1, 1, 2, 2, 2], 4);
            for index in 0..8 {
                let index = LogIndex(index);
                let expected = log(&[1, 1, 2, 2, 2], 4).term(index);
                let expected = expected.filter(|_| index.0 >= base);
                assert_eq!(
                    (cut.term(index), restored.term(index)),
                    (expected, expected)
                );
                assert_eq!(cut.entry(index), restored.entry(index));
            }
            let outcome = offer(&mut cut, (prev, prev_term), terms);
            assert_eq!(outcome, offer(&mut restored, (prev, prev_term), terms));
            // And it is what the whole log says, apart from how far back a hint can look.
            match (
                outcome,
                offer(&mut log(&[1, 1, 2, 2, 2], 4), (prev, prev_term), terms),
            ) {
                (Offer::Conflict(hint), Offer::Conflict(whole)) => {
                    assert_eq!((hint.index, hint.term), (whole.index, whole.term));
                    assert_eq!(hint.first, whole.first.max(LogIndex(base)));
                }
                (outcome, whole) => assert_eq!(outcome, whole),
            }
            assert_eq!(
                (cut.last(), cut.last_term()),
                (restored.last(), restored.last_term())
            );
        }
    }
}

#[test]
fn a_message_from_before_the_base_is_compared_from_the_base_on() {
    let cut = || log_behind(3, &[1, 1, 2, 2], 3);
    assert_eq!(offer(&mut cut(), (1, 1), &[1]), taken(None, &[]));
    assert_eq!(offer(&mut cut(), (1, 1), &[1, 2]), taken(None, &[]));
    assert_eq!(
        offer(&mut cut(), (1, 1), &[1, 2, 3, 3]),
        taken(Some(4), &[(4, 3), (5, 3)])
    );
    // At the base the terms must agree: everybody has that entry.
    assert_eq!(offer(&mut cut(), (1, 1), &[1, 3, 3]), Offer::AgainstCommit);
    assert_eq!(offer(&mut cut(), (3, 3), &[3]), Offer::AgainstCommit);
}

#[test]
fn what_everybody_holds_leaves_the_cache_at_once() {
    let mut log = log(&[1, 1, 1, 1], 4);
    log.applied(LogIndex(3));
    // 250 bytes hold two entries of 100 bytes; more is kept only for those who may lack it.
    log.evict(LogIndex(4), LogIndex(1));
    assert_eq!(log.cache_first(), LogIndex(3));
    log.evict(LogIndex(2), LogIndex(4));
    assert_eq!(log.cache_first(), LogIndex(3), "not durable here");
    log.evict(LogIndex(4), LogIndex(4));
    assert_eq!(log.cache_first(), LogIndex(4), "not applied here");
    log.applied(LogIndex(4));
    log.evict(LogIndex(4), LogIndex(4));
    assert_eq!((log.cache_first(), log.cache_bytes), (LogIndex(5), 0));
    log.check_invariants();
}

#[test]
#[should_panic(expected = "only i1 is applied")]
fn what_is_not_applied_cannot_be_cut() {
    let mut log = log(&[1, 1, 1], 3);
    log.applied(LogIndex(1));
    log.cut(LogIndex(2));
}

#[test]
fn contiguity_is_checked_before_anything_is_believed() {
    let good = [entry(3, 2), entry(4, 3)];
    assert!(is_contiguous(LogIndex(2), Term(1), Term(3), &good));
    assert!(!is_contiguous(LogIndex(1), Term(1), Term(3), &good));
    assert!(!is_contiguous(LogIndex(2), Term(3), Term(3), &good));
    assert!(!is_contiguous(LogIndex(2), Term(1), Term(2), &good));
    assert!(!is_contiguous(
        LogIndex(2),
        Term(0),
        Term(2),
        &[entry(3, 0)]
    ));
    assert!(!is_contiguous(LogIndex(2), Term(4), Term(3), &[]));
}
