//! What really happened in a run, counted by kind.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($name:ident $text:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = $text] $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Kind] = &[$(Kind::$name,)*];

            /// What it is called in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$name => $text,)*
                }
            }
        }
    };
}

// The faults come first; see `Kind::is_fault`.
kinds! {
    Kill "processes killed",
    PowerLoss "power losses of a node",
    RoomPowerLoss "power losses of all nodes",
    SectorKept "unfinished sectors written at a power loss",
    SectorDropped "unfinished sectors dropped at a power loss",
    SectorGarbled "unfinished sectors garbled at a power loss",
    Isolation "nodes cut off",
    Split "partitions in two groups",
    BrokenLink "links cut both ways",
    OneWay "cuts in one direction",
    Swizzle "links cut and mended one by one",
    MessageCut "messages swallowed by a cut",
    MessageLost "messages lost",
    MessageRepeated "messages repeated",
    MessageReordered "messages overtaken",
    MessageDelayed "messages delayed",
    Reset "connections reset",
    ShortPause "pauses shorter than an election timeout",
    LongPause "pauses longer than an election timeout",
    SlowWrite "slow writes",
    HungDisk "hung disks",
    WriteError "failed log and manifest writes (EIO)",
    FileError "failed database file writes (EIO)",
    ReadError "failed log reads (EIO)",
    DiskFull "operations refused by a full disk (ENOSPC)",
    BitRot "flipped bits in one of two copies",
    BothCopiesRot "flipped bits in both copies",
    LogRot "flipped bits in logs",
    FileRot "flipped bits in files of databases",
    MisdirectedWrite "misdirected writes",
    ClockRate "nodes with a fast or slow clock",
    ClockJump "jumps of a clock",
    FigureEight "leaders killed between an older term's entry and their own",
    Amnesia "damaged nodes left with one that lacks what they have lost",
    Succession "nodes killed in a turn with entries of two leaders",
    Annexation "leaders left with standbys that are to vote",
    StreamBroken "connections of snapshots broken",
    StreamFlip "flipped bits in snapshots on their way",
    SwitchCrash "crashes while a snapshot takes the place of everything",
    HungSwitch "disks that hung while a snapshot took the place of everything",
    BeyondAtlas "seeds with more damage than can be survived",
    NoLeader "clusters that refused because a majority was damaged",
    Election "elections won",
    Start "starts of a node",
    RefusedStart "starts refused because of damage",
    DamageFound "starts with a damaged log",
    BaseReplaced "damaged records of a base replaced",
    Repaired "damaged logs repaired from the others",
    Commit "entries committed",
    TornLog "torn ends of logs cut off",
    DamageTold "requests refused because of a damaged page",
    RollBack "roll-backs of a database",
    LongRun "statements that left the core",
    Backfill "backfills",
    WalRestart "restarts of a WAL",
    LogCut "logs cut",
    SnapshotResumed "snapshots gone on with over another connection",
    SnapshotSkipped "databases dropped while their snapshot was on its way",
    SnapshotInstalled "snapshots installed",
    SnapshotGivenUp "snapshots given up",
    Transferred "leadership handed over on request",
    OperatorRefused "requests of operators refused",
    CleanStop "nodes stopped in an orderly way",
    Joined "nodes that joined",
    Replaced "members replaced by a node with an empty disk",
    MemberRemoved "members removed",
    RoleAssigned "roles given by an operator",
    Reconfigured "changes of members committed",
    ToldRemoved "nodes that learned that they were removed",
    TransferInCalm "transfers under clients that hear nothing but \"not leader\"",
    StopInCalm "stops of a leader under such clients",
    LogRead "reads of old entries",
    Acknowledged "writes acknowledged",
    Refused "writes refused",
    Unknown "writes of unknown outcome",
    Read "reads checked",
    ConstraintError "constraint errors checked",
    Digest "database digests compared",
    Created "databases created",
    Dropped "databases dropped",
    Restored "databases restored",
    Appended "lists appended to",
    PairWritten "transactions over two databases",
    Lease "seeds with leases",
    HistoryChecked "register histories found linearizable",
}

impl Kind {
    /// Whether it is something that goes wrong, rather than something that is done.
    pub fn is_fault(self) -> bool {
        (self as usize) < Kind::Election as usize
    }
}

/// How often each kind happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally(Vec<u64>);

impl Default for Tally {
    fn default() -> Self {
        Tally(vec![0; Kind::ALL.len()])
    }
}

impl Tally {
    /// It happened once more.
    pub fn count(&mut self, kind: Kind) {
        self.add(kind, 1);
    }

    /// It happened so many times more.
    pub fn add(&mut self, kind: Kind, times: u64) {
        self.0[kind as usize] += times;
    }

    /// How often it happened.
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// Takes what another one has counted as well.
    pub fn merge(&mut self, other: &Tally) {
        for (own, others) in self.0.iter_mut().zip(&other.0) {
            *own += others;
        }
    }

    /// What never happened, and was therefore not tested.
    pub fn missing(&self) -> Vec<Kind> {
        let kinds = Kind::ALL.iter().copied();
        kinds.filter(|kind| self.of(*kind) == 0).collect()
    }
}
