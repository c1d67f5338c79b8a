//! A network that loses, delays, reorders and repeats messages, and whose links can be cut in
//! either direction.

use std::collections::BTreeMap;

use ringlite_raft::Message;

use super::random::Random;
use super::tally::{Kind, Tally};

/// How bad the network is; chances per mille.
#[derive(Clone, Copy)]
pub(crate) struct Weather {
    loss: u64,
    repeat: u64,
    slow: u64,
    slow_time_max: u64,
}

impl Weather {
    pub(crate) const CALM: Weather = Weather {
        loss: 0,
        repeat: 0,
        slow: 0,
        slow_time_max: 1,
    };

    /// `slow_time_max`: how long a message may be under way.
    pub(crate) fn drawn(random: &mut Random, slow_time_max: u64) -> Weather {
        Weather {
            loss: random.one_of(&[0, 0, 20, 100, 300]),
            repeat: random.one_of(&[0, 50, 200, 500]),
            slow: random.one_of(&[0, 20, 150]),
            slow_time_max: random.between(10, slow_time_max),
        }
    }
}

/// A link in one direction: sender and receiver.
pub(crate) type Link = (usize, usize);

/// For some time nothing passes a link.
struct Cut {
    link: Link,
    from: u64,
    until: u64,
}

pub(crate) struct Network {
    pub(crate) weather: Weather,
    cuts: Vec<Cut>,
    /// By arrival time and a sequence number.
    under_way: BTreeMap<(u64, u64), (usize, usize, Message)>,
    sequence: u64,
    /// The sequence number of the newest message that has arrived over each link.
    newest: BTreeMap<Link, u64>,
}

impl Network {
    pub(crate) fn new() -> Network {
        Network {
            weather: Weather::CALM,
            cuts: Vec::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            newest: BTreeMap::new(),
        }
    }

    /// Cuts a link for some time.
    pub(crate) fn cut(&mut self, link: Link, from: u64, until: u64) {
        self.cuts.push(Cut { link, from, until });
    }

    /// All links work.
    pub(crate) fn mend(&mut self) {
        self.cuts.clear();
    }

    /// All links work, and nothing goes wrong any more.
    pub(crate) fn heal(&mut self) {
        self.mend();
        self.weather = Weather::CALM;
    }

    pub(crate) fn is_cut(&self, link: Link, now: u64) -> bool {
        let mut cuts = self.cuts.iter();
        cuts.any(|cut| cut.link == link && cut.from <= now && now < cut.until)
    }

    /// Whether something that is sent now comes late, or has to be sent again.
    pub(crate) fn is_bad(&self, random: &mut Random) -> bool {
        random.per_mille(self.weather.loss + self.weather.slow)
    }

    pub(crate) fn send(
        &mut self,
        link: Link,
        message: &Message,
        now: u64,
        (random, tally): (&mut Random, &mut Tally),
    ) {
        if self.is_cut(link, now) {
            return tally.count(Kind::MessageCut);
        }
        if random.per_mille(self.weather.loss) {
            return tally.count(Kind::MessageLost);
        }
        let copies = 1 + u64::from(random.per_mille(self.weather.repeat));
        tally.add(Kind::MessageRepeated, copies - 1);
        for _ in 0..copies {
            let slow = random.per_mille(self.weather.slow);
            tally.add(Kind::MessageDelayed, u64::from(slow));
            let delay = random.between(1, if slow { self.weather.slow_time_max } else { 2 });
            self.sequence += 1;
            let (from, to) = link;
            self.under_way
                .insert((now + delay, self.sequence), (from, to, message.clone()));
        }
    }

    /// The messages that arrive now. A cut link also swallows what was under way.
    pub(crate) fn arrivals(&mut self, now: u64, tally: &mut Tally) -> Vec<(usize, usize, Message)> {
        self.cuts.retain(|cut| now < cut.until);
        let mut arrived = Vec::new();
        while let Some(first) = self.under_way.first_entry()
            && first.key().0 <= now
        {
            let ((_, sequence), (from, to, message)) = first.remove_entry();
            if self.is_cut((from, to), now) {
                tally.count(Kind::MessageCut);
                continue;
            }
            let newest = self.newest.entry((from, to)).or_default();
            tally.add(Kind::MessageReordered, u64::from(sequence < *newest));
            *newest = sequence.max(*newest);
            arrived.push((from, to, message));
        }
        arrived
    }
}
