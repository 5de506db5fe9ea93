//! What can be done for a selection before it is asked for, head by head while nothing else is.

/// One layer at the step of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) sequence: u32,
    pub(crate) layer: u32,
    pub(crate) position: u64,
}

/// A part of what is done ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// The expected queries of a KV head propose.
    Propose {
        /// The KV head.
        head: usize,
    },
    /// Keys are scored for the queries of a KV head.
    Score {
        /// The KV head.
        head: usize,
    },
}

/// The work for one layer at the step of one token: first its expected queries are there, then its own. Heads have their turns
/// in order, and those whose own queries are there go first.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    asked: Option<Asked>,
    kv_heads: usize,
    /// [heads, head_dim]; empty if nothing was expected.
    expected: Vec<f32>,
    /// KV heads that expected queries have proposed to.
    proposed: usize,
    /// [heads, head_dim]; empty until they are there.
    query: Vec<f32>,
    /// KV heads whose keys have been scored.
    scored: usize,
    /// KV heads that had been proposed to when the queries came.
    in_time: usize,
}

impl Ahead {
    /// Begins with the queries that are expected.
    pub(crate) fn expect(&mut self, asked: Asked, kv_heads: usize, expected: &[f32]) {
        self.clear();
        (self.asked, self.kv_heads) = (Some(asked), kv_heads);
        self.expected.extend_from_slice(expected);
    }

    /// The true queries are there. What was expected of others is forgotten.
    pub(crate) fn ask(&mut self, asked: Asked, kv_heads: usize, query: &[f32]) {
        if self.asked != Some(asked) {
            self.expect(asked, kv_heads, &[]);
        }
        self.query.clear();
        self.query.extend_from_slice(query);
        self.in_time = self.proposed;
    }

    /// Nothing is to be done any more.
    pub(crate) fn clear(&mut self) {
        self.asked = None;
        self.expected.clear();
        self.query.clear();
        (self.proposed, self.scored, self.in_time) = (0, 0, 0);
    }

    /// KV heads, if the queries of `asked` are there.
    pub(crate) fn heads_asked(&self, asked: Asked) -> Option<usize> {
        (self.asked == Some(asked) && !self.query.is_empty()).then_some(self.kv_heads)
    }

    /// What is to be done next.
    pub(crate) fn next(&self) -> Option<(Asked, Task)> {
        let asked = self.asked?;
        let (is_asked, head) = (!self.query.is_empty(), self.scored);
        let proposes_to = if is_asked { head + 1 } else { self.kv_heads };
        if head == self.kv_heads {
            None
        } else if !self.expected.is_empty() && self.proposed < proposes_to {
            Some((asked, Task::Propose { head: self.proposed }))
        } else {
            is_asked.then_some((asked, Task::Score { head }))
        }
    }

    /// What is to be done before `head` can be selected for.
    pub(crate) fn next_of(&self, head: usize) -> Option<(Asked, Task)> {
        self.next().filter(|_| self.scored <= head)
    }

    /// The next [`Task::Propose`] has been done; if it was of no use, none follows.
    pub(crate) fn proposed(&mut self, useful: bool) {
        if useful {
            self.proposed += 1;
        } else {
            self.expected.clear();
        }
    }

    /// The next [`Task::Score`] has been done.
    pub(crate) const fn scored(&mut self) {
        self.scored += 1;
    }

    /// Whether candidates had been proposed to `head` when its queries came.
    pub(crate) const fn was_in_time(&self, head: usize) -> bool {
        head < self.in_time
    }

    /// The expected queries of a KV head: [group, head_dim].
    pub(crate) fn expected(&self, head: usize) -> &[f32] {
        self.of_head(&self.expected, head)
    }

    /// The queries of a KV head: [group, head_dim].
    pub(crate) fn query(&self, head: usize) -> &[f32] {
        self.of_head(&self.query, head)
    }

    fn of_head<'q>(&self, queries: &'q [f32], head: usize) -> &'q [f32] {
        let length = queries.len() / self.kv_heads;
        &queries[head * length..][..length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { sequence: 0, layer: 3, position: 9 };

    /// What is done until nothing is left, in order: heads that are proposed to are negative, counted from one.
    fn drain(ahead: &mut Ahead) -> Vec<i32> {
        let mut done = Vec::new();
        while let Some((asked, task)) = ahead.next() {
            assert_eq!(asked, ASKED);
            done.push(match task {
                Task::Propose { head } => {
                    ahead.proposed(true);
                    -1 - i32::try_from(head).unwrap()
                }
                Task::Score { head } => {
                    ahead.scored();
                    1 + i32::try_from(head).unwrap()
                }
            });
        }
        done
    }

    #[test]
    fn all_heads_are_proposed_to_and_then_scored() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.next(), None);
        ahead.expect(ASKED, 3, &[0.0; 6]);
        assert_eq!(drain(&mut ahead), [-1, -2, -3]);
        assert_eq!(ahead.heads_asked(ASKED), None);
        ahead.ask(ASKED, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(ahead.heads_asked(ASKED), Some(3));
        assert_eq!(drain(&mut ahead), [1, 2, 3]);
        assert_eq!((ahead.query(1), ahead.expected(2)), (&[3.0, 4.0][..], &[0.0, 0.0][..]));
        assert!((0..3).all(|head| ahead.was_in_time(head)));
    }

    #[test]
    fn what_is_late_is_done_head_by_head() {
        let mut ahead = Ahead::default();
        ahead.expect(ASKED, 3, &[0.0; 6]);
        ahead.proposed(true);
        ahead.ask(ASKED, 3, &[1.0; 6]);
        assert_eq!(ahead.next_of(0), Some((ASKED, Task::Score { head: 0 })));
        assert_eq!(drain(&mut ahead), [1, -2, 2, -3, 3]);
        assert!(ahead.was_in_time(0) && !ahead.was_in_time(1));
    }

    #[test]
    fn what_is_of_no_use_or_for_another_step_is_left() {
        let mut ahead = Ahead::default();
        ahead.expect(ASKED, 2, &[0.0; 6]);
        ahead.proposed(false);
        assert_eq!(ahead.next(), None);
        ahead.ask(ASKED, 2, &[1.0; 6]);
        assert_eq!(drain(&mut ahead), [1, 2]);
        ahead.expect(Asked { layer: 2, ..ASKED }, 2, &[0.0; 6]);
        ahead.ask(ASKED, 2, &[1.0; 6]);
        assert_eq!(drain(&mut ahead), [1, 2]);
        ahead.clear();
        assert_eq!((ahead.next(), ahead.heads_asked(ASKED)), (None, None));
    }
}
