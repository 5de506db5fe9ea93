//! What would travel to a block cache on the device, by the rule that says which block makes room.
//!
//! A step's selection does not depend on the cache, so the caches of a replay are simulated when its selections are known.

mod attended;
mod ranked;
mod simulate;

use serde::{Deserialize, Serialize};

pub(super) use attended::Attended;
pub(super) use simulate::{CacheCounts, simulate};

/// Which block makes room for another. No rule takes a block of the selection at hand, of which sink and window are part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eviction {
    /// The next one that has no uses left when a hand goes round and takes one from each: the indexer's own rule.
    Clock,
    /// The one that has not been attended to for longest.
    Lru,
    /// The one attended to at the fewest steps, of which old ones count less and less.
    Lfu,
    /// The one whose chosen keys have had the smallest share of attention, of which old ones count less and less.
    Score,
    /// The one that will not be attended to for longest: nothing fetches fewer blocks, but it knows the future.
    Optimal,
}

impl Eviction {
    /// Name as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Lru => "lru",
            Self::Lfu => "lfu",
            Self::Score => "score",
            Self::Optimal => "optimal",
        }
    }
}

/// Block caches to simulate: every size with every rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockCaches {
    /// Blocks that a cache holds for each layer and KV head.
    pub blocks: Vec<usize>,
    /// Rules.
    pub evictions: Vec<Eviction>,
}
