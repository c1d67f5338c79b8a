//! Short histories of registers are linearizable, by an exhaustive search.

use std::collections::BTreeMap;

use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

/// A history that is this long is followed by one of another register.
const OPERATIONS_MAX: usize = 24;
/// So is one with so many writes of unknown outcome, each of which doubles the search.
const UNKNOWN_MAX: usize = 3;

/// One operation on one register, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(u64);

#[derive(Clone, Copy)]
enum Event {
    Called(CallId, Option<u64>),
    Returned(CallId, Option<u64>),
}

#[derive(Default)]
struct History {
    events: Vec<Event>,
    refused: Vec<u64>,
    calls: usize,
    unknown: usize,
}

/// The histories of all registers; a register begins with 0.
#[derive(Default)]
pub(crate) struct Histories {
    by_register: BTreeMap<u64, History>,
    register_of: BTreeMap<CallId, (u64, Option<u64>)>,
    current: u64,
    calls: u64,
}

impl Histories {
    /// The register to use now.
    pub(crate) fn register(&self) -> u64 {
        self.current
    }

    /// A call begins: a write of a value of its own, or a read. Calls of registers that have enough
    /// of a history are not recorded.
    pub(crate) fn call(&mut self, register: u64, write: Option<u64>) -> Option<CallId> {
        let history = self.by_register.entry(register).or_default();
        if register != self.current {
            return None;
        }
        self.calls += 1;
        let id = CallId(self.calls);
        history.events.push(Event::Called(id, write));
        history.calls += 1;
        if history.calls >= OPERATIONS_MAX {
            self.current += 1;
        }
        self.register_of.insert(id, (register, write));
        Some(id)
    }

    /// It has succeeded; a read has found `value`.
    pub(crate) fn succeeded(&mut self, id: CallId, value: Option<u64>) {
        if let Some(history) = self.history_of(id) {
            history.events.push(Event::Returned(id, value));
        }
    }

    /// It has had no effect, and never will.
    pub(crate) fn refused(&mut self, id: CallId) {
        let (register, write) = self.register_of[&id];
        if let Some(history) = self.by_register.get_mut(&register) {
            history.refused.extend(write);
            history
                .events
                .retain(|event| !matches!(event, Event::Called(of, _) if *of == id));
        }
    }

    /// Nobody knows what came of it.
    pub(crate) fn unknown(&mut self, id: CallId) {
        let (register, write) = self.register_of[&id];
        if write.is_none() {
            return self.refused(id);
        }
        if let Some(history) = self.history_of(id) {
            history.unknown += 1;
            if history.unknown >= UNKNOWN_MAX && register == self.current {
                self.current += 1;
            }
        }
    }

    fn history_of(&mut self, id: CallId) -> Option<&mut History> {
        self.by_register.get_mut(&self.register_of.get(&id)?.0)
    }

    /// Checks all of them; returns how many there were.
    pub(crate) fn check(&self) -> u64 {
        for (register, history) in &self.by_register {
            check(*register, history);
        }
        self.by_register.len() as u64
    }
}

fn check(register: u64, history: &History) {
    let writes: Vec<u64> = history.events.iter().filter_map(written).collect();
    let mut tester = LinearizabilityTester::new(Register(0));
    for event in &history.events {
        // Each call is a thread of its own.
        let recorded = match *event {
            Event::Called(id, Some(value)) => tester.on_invoke(id, RegisterOp::Write(value)),
            Event::Called(id, None) => tester.on_invoke(id, RegisterOp::Read),
            Event::Returned(id, Some(value)) => {
                assert!(
                    !history.refused.contains(&value),
                    "{value} was read from register {register}, and its write was refused"
                );
                if value != 0 && !writes.contains(&value) {
                    // The write was not recorded: the read stays a call without an end.
                    continue;
                }
                tester.on_return(id, RegisterRet::ReadOk(value))
            }
            Event::Returned(id, None) => tester.on_return(id, RegisterRet::WriteOk),
        };
        recorded.expect("each call begins and ends once");
    }
    assert!(
        tester.is_consistent(),
        "the history of register {register} is not linearizable: {tester:?}"
    );
}

fn written(event: &Event) -> Option<u64> {
    match event {
        Event::Called(_, write) => *write,
        Event::Returned(..) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_read_is_found() {
        let mut histories = Histories::default();
        let write = histories.call(0, Some(7)).unwrap();
        histories.succeeded(write, None);
        let read = histories.call(0, None).unwrap();
        histories.succeeded(read, Some(7));
        assert_eq!(histories.check(), 1);
        let read = histories.call(0, None).unwrap();
        histories.succeeded(read, Some(0));
        let outcome = std::panic::catch_unwind(|| histories.check());
        assert!(outcome.is_err(), "0 was read after 7");
    }

    #[test]
    fn a_write_of_unknown_outcome_may_have_happened_or_not() {
        for found in [0, 7] {
            let mut histories = Histories::default();
            let write = histories.call(0, Some(7)).unwrap();
            histories.unknown(write);
            let read = histories.call(0, None).unwrap();
            histories.succeeded(read, Some(found));
            histories.check();
        }
    }

    #[test]
    fn a_refused_write_is_never_read() {
        let mut histories = Histories::default();
        let write = histories.call(0, Some(7)).unwrap();
        let other = histories.call(0, Some(8)).unwrap();
        histories.succeeded(other, None);
        histories.refused(write);
        let read = histories.call(0, None).unwrap();
        histories.succeeded(read, Some(8));
        histories.check();
        let read = histories.call(0, None).unwrap();
        histories.succeeded(read, Some(7));
        let outcome = std::panic::catch_unwind(|| histories.check());
        assert!(outcome.is_err(), "7 was read after its write was refused");
    }
}
