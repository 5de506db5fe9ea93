//! Scores of many keys for each head of a group.

/// A matrix [group, capacity] of scores, of which the first [`Scores::len`] columns are in use.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    group: usize,
    capacity: usize,
    len: usize,
    values: Vec<f32>,
}

impl Scores {
    /// An empty matrix of `group` rows.
    #[must_use]
    pub const fn new(group: usize) -> Self {
        Self { group, capacity: 0, len: 0, values: Vec::new() }
    }

    /// An empty matrix of `group` rows, with room for `columns` columns.
    #[must_use]
    pub fn with_capacity(group: usize, columns: usize) -> Self {
        let mut scores = Self::new(group);
        scores.resize(columns);
        scores.resize(0);
        scores
    }

    /// Sets the number of columns in use; what they hold is unspecified until they are written.
    ///
    /// Allocates only if there have never been as many.
    pub fn resize(&mut self, len: usize) {
        if len > self.capacity {
            self.capacity = len.next_multiple_of(4096);
            self.values = vec![0.0; self.group * self.capacity];
        }
        self.len = len;
    }

    /// Columns in use.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no column is in use.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Rows: heads of the group.
    #[must_use]
    pub const fn group(&self) -> usize {
        self.group
    }

    /// Scores of one head: `[len]`.
    #[must_use]
    pub fn head(&self, head: usize) -> &[f32] {
        &self.values[head * self.capacity..][..self.len]
    }

    /// Scores of one head, to write: `[len]`.
    pub fn head_mut(&mut self, head: usize) -> &mut [f32] {
        &mut self.values[head * self.capacity..][..self.len]
    }

    /// Distance from a score to the next head's score of the same key.
    pub(crate) const fn stride(&self) -> usize {
        self.capacity
    }

    /// All rows, [`Scores::stride`] apart.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}
