//! Whose turn it is to be checked against an exact scan.

use hindsight_protocol::geometry::Geometry;

/// One (layer, KV head) is audited per step, each in its turn, so that a user always sees how good the predictions are now.
#[derive(Debug, Default)]
pub(crate) struct AuditTurn {
    /// Position of the step at hand, and the (layer, KV head) whose turn it is.
    step: Option<(u64, u32)>,
}

impl AuditTurn {
    /// The KV head to audit in `layer` at the step of the token at `position`, if it is this layer's turn.
    ///
    /// A step whose layer is not asked for (a dense one, say) passes its turn on.
    pub(crate) fn turn(&mut self, layer: u32, position: u64, geometry: &Geometry) -> Option<usize> {
        let pairs = geometry.layers * geometry.kv_heads;
        let turn = match self.step {
            Some((at, turn)) if at == position => turn,
            Some((_, turn)) => (turn + 1) % pairs,
            None => 0,
        };
        self.step = Some((position, turn));
        (turn / geometry.kv_heads == layer).then_some((turn % geometry.kv_heads) as usize)
    }
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::geometry::KvDtype;

    use super::*;

    #[test]
    fn every_head_of_every_layer_has_one_turn_in_as_many_steps() {
        let geometry = Geometry {
            layers: 3,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            block_tokens: 16,
            dtype: KvDtype::F16,
        };
        let mut audits = AuditTurn::default();
        let mut seen = Vec::new();
        for position in 100..106 {
            for layer in 0..3 {
                seen.extend(audits.turn(layer, position, &geometry).map(|head| (layer, head)));
            }
        }
        assert_eq!(seen, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    }
}
