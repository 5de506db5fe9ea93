//! What can be done for a selection before it is asked for: expected queries propose, head by head, while nothing else is to be
//! done.

/// One layer at the step of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) sequence: u32,
    pub(crate) layer: u32,
    pub(crate) position: u64,
}

/// Expected queries, and how many KV heads they have proposed to, in order.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    asked: Option<Asked>,
    kv_heads: usize,
    /// [heads, head_dim].
    expected: Vec<f32>,
    proposed: usize,
}

impl Ahead {
    /// Expects `queries` ([heads, head_dim]), and no others.
    pub(crate) fn expect(&mut self, asked: Asked, kv_heads: usize, queries: &[f32]) {
        self.forget();
        (self.asked, self.kv_heads) = (Some(asked), kv_heads);
        self.expected.extend_from_slice(queries);
    }

    /// Expects nothing.
    pub(crate) fn forget(&mut self) {
        self.asked = None;
        self.expected.clear();
        self.proposed = 0;
    }

    /// The next head to be proposed to.
    pub(crate) fn next(&self) -> Option<(Asked, usize)> {
        self.asked.filter(|_| self.proposed < self.kv_heads).map(|asked| (asked, self.proposed))
    }

    /// The next head to be proposed to before `head` of `asked` can be selected for.
    pub(crate) fn next_of(&self, asked: Asked, head: usize) -> Option<usize> {
        let (expected, next) = self.next()?;
        (expected == asked && next <= head).then_some(next)
    }

    /// The next head has been proposed to; if it was of no use, nothing is expected any more.
    pub(crate) fn proposed(&mut self, useful: bool) {
        if useful {
            self.proposed += 1;
        } else {
            self.forget();
        }
    }

    /// Heads of `asked` that have been proposed to.
    pub(crate) fn ready(&self, asked: Asked) -> usize {
        if self.asked == Some(asked) { self.proposed } else { 0 }
    }

    /// The expected queries of a KV head: [group, head_dim].
    pub(crate) fn expected(&self, head: usize) -> &[f32] {
        let length = self.expected.len() / self.kv_heads;
        &self.expected[head * length..][..length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { sequence: 0, layer: 3, position: 9 };
    const LATER: Asked = Asked { position: 10, ..ASKED };

    #[test]
    fn heads_are_proposed_to_in_order() {
        let mut ahead = Ahead::default();
        assert_eq!((ahead.next(), ahead.ready(ASKED)), (None, 0));
        ahead.expect(ASKED, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(ahead.expected(1), [3.0, 4.0]);
        for head in 0..3 {
            assert_eq!((ahead.next(), ahead.ready(ASKED)), (Some((ASKED, head)), head));
            ahead.proposed(true);
        }
        assert_eq!((ahead.next(), ahead.ready(ASKED), ahead.ready(LATER)), (None, 3, 0));
    }

    #[test]
    fn what_is_late_is_due_before_its_head_and_only_for_its_step() {
        let mut ahead = Ahead::default();
        ahead.expect(ASKED, 3, &[0.0; 6]);
        ahead.proposed(true);
        assert_eq!((ahead.next_of(ASKED, 0), ahead.next_of(ASKED, 1)), (None, Some(1)));
        assert_eq!((ahead.next_of(ASKED, 2), ahead.next_of(LATER, 2)), (Some(1), None));
    }

    #[test]
    fn what_is_of_no_use_or_for_another_step_is_left() {
        let mut ahead = Ahead::default();
        ahead.expect(ASKED, 2, &[0.0; 6]);
        ahead.proposed(false);
        assert_eq!(ahead.next(), None);
        ahead.expect(ASKED, 2, &[0.0; 6]);
        ahead.proposed(true);
        ahead.expect(LATER, 2, &[0.0; 6]);
        assert_eq!((ahead.next(), ahead.ready(ASKED)), (Some((LATER, 0)), 0));
        ahead.forget();
        assert_eq!((ahead.next(), ahead.ready(LATER)), (None, 0));
    }
}
