//! Which slabs hold which sequence.
//!
//! The tables live in shared memory, so that they outlive whichever process dies. Their owner (the indexer) alone
//! opens, grows and closes sequences; the worker reads them and publishes how many tokens it has written. Every word
//! that an owner writes carries that owner's epoch, so that a successor can tell what it has not confirmed yet.

use crate::arena::layout::{MAX_SEQUENCES, SEQUENCE_WORDS, SLAB_TOKENS};
use crate::sync::{AtomicU64, Ordering};

/// A table operation that cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No such table.
    #[error("sequence {0} does not exist; an arena has {MAX_SEQUENCES}")]
    NoSuchSequence(u32),
    /// The sequence is in use already.
    #[error("sequence {0} is open already")]
    AlreadyOpen(u32),
    /// The sequence is not in use.
    #[error("sequence {0} is not open")]
    NotOpen(u32),
    /// No slab is free.
    #[error("the arena is full: {asked} tokens were asked for, {available} fit")]
    Full {
        /// Tokens that the sequence should hold.
        asked: u64,
        /// Tokens that it could hold at most now.
        available: u64,
    },
    /// A word that no owner can have written.
    #[error("the block table of sequence {sequence} is corrupt at entry {entry}: {word:#x}")]
    Corrupt {
        /// The sequence.
        sequence: u32,
        /// Entry within its table.
        entry: u32,
        /// What stands there.
        word: u64,
    },
}

const OPEN: u64 = 1;
const STATE: usize = 0;
const LENGTH: usize = 1;

/// Packs an owner's epoch with a value.
const fn word(epoch: u32, value: u32) -> u64 {
    (epoch as u64) << 32 | value as u64
}

/// The value of a word, without its epoch.
const fn value(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// All tables of one arena.
#[derive(Debug, Clone, Copy)]
pub struct BlockTables<'a> {
    words: &'a [AtomicU64],
    slabs: u32,
}

impl<'a> BlockTables<'a> {
    /// Views `words`: one per slab, then one table per sequence.
    pub(crate) fn new(words: &'a [AtomicU64], slabs: u32) -> Self {
        assert!(words.len() >= slabs as usize + MAX_SEQUENCES * (SEQUENCE_WORDS + slabs as usize));
        Self { words, slabs }
    }

    fn slab_words(&self) -> &'a [AtomicU64] {
        &self.words[..self.slabs as usize]
    }

    fn table(&self, sequence: u32) -> Result<&'a [AtomicU64], TableError> {
        if sequence as usize >= MAX_SEQUENCES {
            return Err(TableError::NoSuchSequence(sequence));
        }
        let length = SEQUENCE_WORDS + self.slabs as usize;
        let start = self.slabs as usize + sequence as usize * length;
        Ok(&self.words[start..start + length])
    }

    fn open_table(&self, sequence: u32) -> Result<&'a [AtomicU64], TableError> {
        let table = self.table(sequence)?;
        // SYNC POINT with the release store in `TableOwner::open`: an open table has been cleared.
        if u64::from(value(table[STATE].load(Ordering::Acquire))) == OPEN {
            Ok(table)
        } else {
            Err(TableError::NotOpen(sequence))
        }
    }

    /// Copies the slabs of `sequence`, in the order of the text, into `slabs`; each is checked to exist.
    ///
    /// # Errors
    /// [`TableError::NotOpen`], or [`TableError::Corrupt`] if an entry names a slab that does not exist.
    pub fn read_slabs(&self, sequence: u32, slabs: &mut Vec<u32>) -> Result<(), TableError> {
        let table = self.open_table(sequence)?;
        slabs.clear();
        for (entry, cell) in (0_u32..).zip(&table[SEQUENCE_WORDS..]) {
            // SYNC POINT with the release store in `TableOwner::reserve`: the slab's memory has been taken.
            let word = cell.load(Ordering::Acquire);
            match value(word) {
                0 => break,
                slab if slab <= self.slabs => slabs.push(slab - 1),
                _ => return Err(TableError::Corrupt { sequence, entry, word }),
            }
        }
        Ok(())
    }

    /// Tokens of `sequence` whose keys and values are complete in every layer.
    ///
    /// # Errors
    /// [`TableError::NotOpen`].
    pub fn published(&self, sequence: u32) -> Result<u64, TableError> {
        // SYNC POINT with the release store in `publish`.
        Ok(self.open_table(sequence)?[LENGTH].load(Ordering::Acquire))
    }

    /// States that `tokens` tokens of `sequence` are complete in every layer. Called by the worker alone.
    ///
    /// # Errors
    /// [`TableError::NotOpen`].
    pub fn publish(&self, sequence: u32, tokens: u64) -> Result<(), TableError> {
        // SYNC POINT with the acquire load in `published`: keys and values were written before.
        self.open_table(sequence)?[LENGTH].store(tokens, Ordering::Release);
        Ok(())
    }

    /// Slabs that hold nothing.
    #[must_use]
    pub fn free_slabs(&self) -> u32 {
        let free = self.slab_words().iter().filter(|cell| value(cell.load(Ordering::Relaxed)) == 0);
        u32::try_from(free.count()).unwrap_or(u32::MAX)
    }
}

/// The only writer of the tables: the indexer of one epoch.
#[derive(Debug, Clone, Copy)]
pub struct TableOwner<'a> {
    tables: BlockTables<'a>,
    epoch: u32,
}

impl<'a> TableOwner<'a> {
    /// Takes over `tables` in the name of `epoch`.
    #[must_use]
    pub const fn new(tables: BlockTables<'a>, epoch: u32) -> Self {
        Self { tables, epoch }
    }

    /// The tables, to read.
    #[must_use]
    pub const fn tables(&self) -> BlockTables<'a> {
        self.tables
    }

    /// Starts `sequence` with no tokens.
    ///
    /// # Errors
    /// [`TableError::AlreadyOpen`] or [`TableError::NoSuchSequence`].
    pub fn open(&self, sequence: u32) -> Result<(), TableError> {
        let table = self.tables.table(sequence)?;
        if u64::from(value(table[STATE].load(Ordering::Acquire))) == OPEN {
            return Err(TableError::AlreadyOpen(sequence));
        }
        for cell in &table[LENGTH..] {
            cell.store(0, Ordering::Relaxed);
        }
        // SYNC POINT with the acquire load in `open_table`.
        table[STATE].store(word(self.epoch, 1), Ordering::Release);
        Ok(())
    }

    /// Grows `sequence` until it can hold `tokens` tokens. `populate` is called for each slab before it is entered,
    /// and may refuse it.
    ///
    /// # Errors
    /// [`TableError::Full`] if too few slabs are free, in which case nothing changes, or `populate`'s own error.
    pub fn reserve<E: From<TableError>>(
        &self,
        sequence: u32,
        tokens: u64,
        mut populate: impl FnMut(u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let table = self.tables.open_table(sequence)?;
        let entries = &table[SEQUENCE_WORDS..];
        let held =
            entries.iter().take_while(|cell| value(cell.load(Ordering::Relaxed)) != 0).count();
        let wanted = usize::try_from(tokens.div_ceil(SLAB_TOKENS as u64)).unwrap_or(usize::MAX);
        let missing = wanted.saturating_sub(held);
        let free = self.tables.free_slabs() as usize;
        if missing > free {
            let available = ((held + free) * SLAB_TOKENS) as u64;
            return Err(TableError::Full { asked: tokens, available }.into());
        }
        let slabs = (0_u32..).zip(self.tables.slab_words());
        let mut unused = slabs.filter(|(_, cell)| value(cell.load(Ordering::Relaxed)) == 0);
        for entry in entries.iter().skip(held).take(missing) {
            let (slab, cell) = unused.next().expect("as many slabs are free as were counted");
            populate(slab)?;
            cell.store(word(self.epoch, 1), Ordering::Relaxed);
            // SYNC POINT with the acquire load in `read_slabs`.
            entry.store(word(self.epoch, slab + 1), Ordering::Release);
        }
        Ok(())
    }

    /// Ends `sequence`; `release` is called for each slab that it held.
    ///
    /// # Errors
    /// [`TableError::NotOpen`], or [`TableError::Corrupt`].
    pub fn close(&self, sequence: u32, mut release: impl FnMut(u32)) -> Result<(), TableError> {
        let table = self.tables.open_table(sequence)?;
        let mut slabs = Vec::new();
        self.tables.read_slabs(sequence, &mut slabs)?;
        table[STATE].store(word(self.epoch, 0), Ordering::Release);
        for slab in slabs {
            release(slab);
            self.tables.slab_words()[slab as usize].store(word(self.epoch, 0), Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const SLABS: u32 = 6;

    fn words() -> Vec<AtomicU64> {
        let count = SLABS as usize + MAX_SEQUENCES * (SEQUENCE_WORDS + SLABS as usize);
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    fn slabs_of(tables: &BlockTables<'_>, sequence: u32) -> Vec<u32> {
        let mut slabs = Vec::new();
        tables.read_slabs(sequence, &mut slabs).unwrap();
        slabs
    }

    #[test]
    fn a_full_arena_says_what_would_fit_and_changes_nothing() {
        let words = words();
        let owner = TableOwner::new(BlockTables::new(&words, SLABS), 1);
        owner.open(0).unwrap();
        owner.open(1).unwrap();
        owner.reserve::<TableError>(0, 4 * 1024, |_| Ok(())).unwrap();
        let full = owner.reserve::<TableError>(1, 3 * 1024, |_| Ok(()));
        assert_eq!(full, Err(TableError::Full { asked: 3072, available: 2048 }));
        assert_eq!(slabs_of(&owner.tables(), 1), []);
        assert_eq!(owner.tables().free_slabs(), 2);
    }

    #[test]
    fn an_entry_beyond_the_arena_is_reported_not_followed() {
        let words = words();
        let tables = BlockTables::new(&words, SLABS);
        let owner = TableOwner::new(tables, 1);
        owner.open(0).unwrap();
        owner.reserve::<TableError>(0, 1, |_| Ok(())).unwrap();
        tables.table(0).unwrap()[SEQUENCE_WORDS].store(word(1, SLABS + 1), Ordering::Relaxed);
        let read = tables.read_slabs(0, &mut Vec::new());
        assert!(matches!(read, Err(TableError::Corrupt { sequence: 0, entry: 0, .. })));
    }

    #[test]
    fn a_slab_that_cannot_be_populated_is_not_entered() {
        let words = words();
        let owner = TableOwner::new(BlockTables::new(&words, SLABS), 1);
        owner.open(0).unwrap();
        let refused = owner
            .reserve(0, 2048, |slab| if slab == 1 { Err(TableError::NotOpen(99)) } else { Ok(()) });
        assert_eq!(refused, Err(TableError::NotOpen(99)));
        assert_eq!(slabs_of(&owner.tables(), 0), [0]);
        assert_eq!(owner.tables().free_slabs(), SLABS - 1);
    }

    #[derive(Debug, Clone)]
    enum Operation {
        Open(u32),
        Reserve(u32, u64),
        Publish(u32, u64),
        Close(u32),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let sequence = 0..4_u32;
        prop_oneof![
            sequence.clone().prop_map(Operation::Open),
            (sequence.clone(), 0..8192_u64).prop_map(|(s, t)| Operation::Reserve(s, t)),
            (sequence.clone(), 0..8192_u64).prop_map(|(s, t)| Operation::Publish(s, t)),
            sequence.prop_map(Operation::Close),
        ]
    }

    proptest! {
        /// Tables agree with a map of what was asked for, and no slab is ever held twice or lost.
        #[test]
        fn tables_follow_a_model(operations in prop::collection::vec(operation(), 1..60)) {
            let words = words();
            let tables = BlockTables::new(&words, SLABS);
            let owner = TableOwner::new(tables, 3);
            let mut model: HashMap<u32, (usize, u64)> = HashMap::new();
            for operation in operations {
                let held: usize = model.values().map(|(slabs, _)| slabs).sum();
                match operation {
                    Operation::Open(s) => {
                        prop_assert_eq!(owner.open(s).is_ok(), !model.contains_key(&s));
                        model.entry(s).or_insert((0, 0));
                    }
                    Operation::Reserve(s, tokens) => {
                        let wanted = tokens.div_ceil(1024) as usize;
                        let done = owner.reserve::<TableError>(s, tokens, |_| Ok(())).is_ok();
                        let expected = model.get(&s).is_some_and(|(slabs, _)| {
                            wanted.saturating_sub(*slabs) <= SLABS as usize - held
                        });
                        prop_assert_eq!(done, expected);
                        if done {
                            let entry = model.get_mut(&s).unwrap();
                            entry.0 = entry.0.max(wanted);
                        }
                    }
                    Operation::Publish(s, tokens) => {
                        prop_assert_eq!(tables.publish(s, tokens).is_ok(), model.contains_key(&s));
                        if let Some(entry) = model.get_mut(&s) {
                            entry.1 = tokens;
                        }
                    }
                    Operation::Close(s) => {
                        let mut released = 0;
                        let closed = owner.close(s, |_| released += 1).is_ok();
                        let expected = model.remove(&s);
                        prop_assert_eq!(closed, expected.is_some());
                        prop_assert_eq!(released, expected.map_or(0, |(slabs, _)| slabs));
                    }
                }
                let mut seen = Vec::new();
                for (&s, &(count, published)) in &model {
                    let slabs = slabs_of(&tables, s);
                    prop_assert_eq!(slabs.len(), count);
                    prop_assert_eq!(tables.published(s), Ok(published));
                    seen.extend(slabs);
                }
                let total = seen.len();
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), total);
                prop_assert_eq!(tables.free_slabs() as usize, SLABS as usize - total);
            }
        }
    }
}
