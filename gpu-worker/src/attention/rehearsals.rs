//! From which residual stream the queries of each layer are told ahead of time.

use super::Rehearsal;

/// What is left of the weight of a step at the next step.
const REMEMBERED: f32 = 0.95;
/// Share of KV heads that early queries may mislead before late ones are told: these come later, but fewer of them mislead.
const EARLY_MAY_MISLEAD: f32 = 0.25;
/// Share of KV heads that late queries may mislead before none are told: most of what the indexer does for them is in vain.
const LATE_MAY_MISLEAD: f32 = 0.75;

/// How the queries of each layer are told, and how often that has misled.
///
/// Depends on the text alone, so that a text does not depend on who was faster.
#[derive(Debug)]
pub(super) struct Rehearsals {
    layers: Vec<Layer>,
}

#[derive(Debug, Clone, Copy)]
struct Layer {
    rehearsal: Option<Rehearsal>,
    /// Running mean of the share of KV heads for which the queries told were too unlike the true ones.
    misled: f32,
}

impl Layer {
    const fn told(rehearsal: Option<Rehearsal>) -> Self {
        Self { rehearsal, misled: 0.0 }
    }
}

impl Rehearsals {
    pub(super) fn new(layers: usize) -> Self {
        Self { layers: vec![Layer::told(Some(Rehearsal::Early)); layers] }
    }

    /// Begins a text: all layers are told of early.
    pub(super) fn reset(&mut self) {
        self.layers.fill(Layer::told(Some(Rehearsal::Early)));
    }

    /// How the queries of `layer` are to be told. What has misled too often is not gone back to in this text.
    pub(super) fn of(&self, layer: usize) -> Option<Rehearsal> {
        self.layers[layer].rehearsal
    }

    /// Takes note of the share of KV heads of `layer` that a step's queries, as they were told, have misled.
    pub(super) fn judge(&mut self, layer: usize, misled: f32) {
        let layer = &mut self.layers[layer];
        layer.misled = REMEMBERED * layer.misled + (1.0 - REMEMBERED) * misled;
        let (most, otherwise) = match layer.rehearsal {
            Some(Rehearsal::Early) => (EARLY_MAY_MISLEAD, Some(Rehearsal::Late)),
            _ => (LATE_MAY_MISLEAD, None),
        };
        if layer.misled > most {
            *layer = Layer::told(otherwise);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has a share of the KV heads of `layer` misled for `steps` steps.
    fn mislead(rehearsals: &mut Rehearsals, layer: usize, share: f32, steps: usize) {
        for _ in 0..steps {
            rehearsals.judge(layer, share);
        }
    }

    #[test]
    fn layers_whose_queries_mislead_are_told_late_then_not_at_all_until_the_next_text() {
        let mut rehearsals = Rehearsals::new(4);
        mislead(&mut rehearsals, 1, 0.0, 200);
        mislead(&mut rehearsals, 2, 0.5, 200);
        mislead(&mut rehearsals, 3, 1.0, 200);
        let of_all = |rehearsals: &Rehearsals| [0, 1, 2, 3].map(|layer| rehearsals.of(layer));
        let (early, late) = (Some(Rehearsal::Early), Some(Rehearsal::Late));
        assert_eq!(of_all(&rehearsals), [early, early, late, None]);
        rehearsals.reset();
        assert_eq!(of_all(&rehearsals), [early; 4]);
    }

    #[test]
    fn a_step_that_turns_away_does_not_make_a_layer_late() {
        let mut rehearsals = Rehearsals::new(1);
        for _ in 0..20 {
            mislead(&mut rehearsals, 0, 1.0, 1);
            mislead(&mut rehearsals, 0, 0.0, 30);
        }
        assert_eq!(rehearsals.of(0), Some(Rehearsal::Early));
    }
}
