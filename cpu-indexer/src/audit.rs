//! Whose turn it is to be checked against an exact scan.

use hindsight_protocol::geometry::Geometry;

/// Tokens of context for each of which an audit may read a key at every step. An audit reads the keys of the whole context, so in a
/// context of `n` times as many tokens one step in `n` is audited, and audits cost a step the same whatever the context.
const KEYS_PER_STEP: u64 = 4096;

/// One (layer, KV head) is audited at a step, each in its turn, so that a user always sees how good the predictions are now.
#[derive(Debug, Default)]
pub(crate) struct AuditTurn {
    /// Position of the last step that was audited, and the (layer, KV head) whose turn it was.
    last: Option<(u64, u32)>,
}

impl AuditTurn {
    /// The KV head to audit in `layer` at the step of the token at `position`, if it is this layer's turn.
    ///
    /// A step whose layer is not asked for (a dense one, say) passes its turn on.
    pub(crate) fn turn(&mut self, layer: u32, position: u64, geometry: &Geometry) -> Option<usize> {
        let pairs = geometry.layers * geometry.kv_heads;
        let turn = match self.last {
            Some((at, turn)) if at == position => turn,
            Some((at, _)) if at < position && position < at + position / KEYS_PER_STEP => {
                return None;
            }
            Some((_, turn)) => (turn + 1) % pairs,
            None => 0,
        };
        self.last = Some((position, turn));
        (turn / geometry.kv_heads == layer).then_some((turn % geometry.kv_heads) as usize)
    }
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::geometry::KvDtype;

    use super::*;

    const GEOMETRY: Geometry = Geometry {
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        block_tokens: 16,
        dtype: KvDtype::F16,
    };

    #[test]
    fn steps_of_long_contexts_are_audited_less_often() {
        let mut audits = AuditTurn::default();
        let mut seen = Vec::new();
        let first = 10 * KEYS_PER_STEP;
        for position in (first..first + 40).chain(first..first + 1) {
            for layer in 0..3 {
                let head = audits.turn(layer, position, &GEOMETRY);
                seen.extend(head.map(|head| (position - first, layer, head)));
            }
        }
        // A text that is taken back is not waited for.
        assert_eq!(seen, [(0, 0, 0), (10, 0, 1), (20, 1, 0), (30, 1, 1), (0, 2, 0)]);
    }

    #[test]
    fn every_head_of_every_layer_has_one_turn_in_as_many_steps() {
        let mut audits = AuditTurn::default();
        let mut seen = Vec::new();
        for position in 100..106 {
            for layer in 0..3 {
                seen.extend(audits.turn(layer, position, &GEOMETRY).map(|head| (layer, head)));
            }
        }
        assert_eq!(seen, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    }
}
