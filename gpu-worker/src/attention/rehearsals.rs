//! From which residual stream the queries of each layer are told ahead of time.

use hindsight_protocol::records::LEAST_ALIKE;

use super::Rehearsal;

/// What is left of the weight of a step at the next step.
const REMEMBERED: f32 = 0.95;
/// Share of KV heads that early queries may mislead before late ones are told: these come later, but fewer of them mislead.
const EARLY_MAY_MISLEAD: f32 = 0.25;
/// Share of KV heads that late queries may mislead before none are told: most of what the indexer does for them is in vain.
const LATE_MAY_MISLEAD: f32 = 0.75;
/// Elements that are multiplied side by side; the size of a head is a multiple of it.
const LANES: usize = 16;

/// How the queries of each layer are told, and how often that has misled.
///
/// Depends on the text alone, so that a text does not depend on who was faster.
#[derive(Debug)]
pub(super) struct Rehearsals {
    head_dim: usize,
    group: usize,
    layers: Vec<Layer>,
    /// The queries told last, [heads, head_dim], and their layer.
    queries: Vec<f32>,
    told: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Layer {
    rehearsal: Option<Rehearsal>,
    /// Running mean of the share of KV heads for which the queries told are too unlike the true ones.
    misled: f32,
}

impl Rehearsals {
    /// For `layers` layers of KV heads that are shared by `group` queries of `head_dim` elements.
    pub(super) fn new(layers: usize, group: usize, head_dim: usize) -> Self {
        let layer = Layer { rehearsal: Some(Rehearsal::Early), misled: 0.0 };
        Self { head_dim, group, layers: vec![layer; layers], queries: Vec::new(), told: None }
    }

    /// Begins a text: all layers are told of early.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.layers.len(), self.group, self.head_dim);
    }

    /// How the queries of `layer` are to be told. What has misled too often is not gone back to in this text.
    pub(super) fn of(&self, layer: usize) -> Option<Rehearsal> {
        self.layers[layer].rehearsal
    }

    /// Takes note of the queries that are told of `layer`.
    pub(super) fn tell(&mut self, layer: usize, queries: &[f32]) {
        self.told = Some(layer);
        self.queries.clear();
        self.queries.extend_from_slice(queries);
    }

    /// Compares them with the true ones.
    pub(super) fn compare(&mut self, layer: usize, queries: &[f32]) {
        if self.told.take() != Some(layer) {
            return;
        }
        let of_group = self.group * self.head_dim;
        let groups = self.queries.chunks_exact(of_group).zip(queries.chunks_exact(of_group));
        let kv_heads = groups.len() as f32;
        let misled = groups.filter(|(told, queries)| self.likeness(told, queries) < LEAST_ALIKE);
        let misled = misled.count() as f32 / kv_heads;
        let layer = &mut self.layers[layer];
        layer.misled = REMEMBERED * layer.misled + (1.0 - REMEMBERED) * misled;
        let (most, otherwise) = match layer.rehearsal {
            Some(Rehearsal::Early) => (EARLY_MAY_MISLEAD, Some(Rehearsal::Late)),
            _ => (LATE_MAY_MISLEAD, None),
        };
        if layer.misled > most {
            *layer = Layer { rehearsal: otherwise, misled: 0.0 };
        }
    }

    /// Mean cosine of the queries of a group.
    fn likeness(&self, a: &[f32], b: &[f32]) -> f32 {
        let heads = a.chunks_exact(self.head_dim).zip(b.chunks_exact(self.head_dim));
        heads.map(|(a, b)| cosine(a, b)).sum::<f32>() / self.group as f32
    }
}

/// The cosine of the angle between two vectors; 0 if one has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [[0.0_f32; LANES]; 3];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for lane in 0..LANES {
            sums[0][lane] += a[lane] * b[lane];
            sums[1][lane] += a[lane] * a[lane];
            sums[2][lane] += b[lane] * b[lane];
        }
    }
    let [product, of_a, of_b] = sums.map(|lanes| lanes.iter().sum::<f32>());
    product / (of_a * of_b).sqrt().max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 32;

    /// Tells `layer` for `steps` steps of queries of two KV heads whose cosines with the true ones are these.
    fn tell(rehearsals: &mut Rehearsals, layer: usize, cosines: [f32; 2], steps: usize) {
        let told = [3.0, 0.0].map(|first| {
            let mut query = [0.0; DIM];
            (query[20], query[1]) = (first, 3.0 - first);
            query
        });
        let queries = [0, 1].map(|head| {
            let (cosine, mut query) = (cosines[head], told[head].map(|x| x / 3.0 * cosines[head]));
            query[7] = (1.0 - cosine * cosine).sqrt();
            query
        });
        for _ in 0..steps {
            rehearsals.tell(layer, told.as_flattened());
            rehearsals.compare(layer, queries.as_flattened());
        }
    }

    #[test]
    fn layers_whose_queries_mislead_are_told_late_then_not_at_all_until_the_next_text() {
        let mut rehearsals = Rehearsals::new(4, 1, DIM);
        tell(&mut rehearsals, 1, [0.9, 0.87], 200);
        tell(&mut rehearsals, 2, [0.95, 0.8], 200);
        tell(&mut rehearsals, 3, [0.3, 0.6], 200);
        let of_all = |rehearsals: &Rehearsals| [0, 1, 2, 3].map(|layer| rehearsals.of(layer));
        let (early, late) = (Some(Rehearsal::Early), Some(Rehearsal::Late));
        assert_eq!(of_all(&rehearsals), [early, early, late, None]);
        rehearsals.reset();
        assert_eq!(of_all(&rehearsals), [early; 4]);
    }

    #[test]
    fn a_step_that_turns_away_does_not_make_a_layer_late() {
        let mut rehearsals = Rehearsals::new(1, 1, DIM);
        for _ in 0..20 {
            tell(&mut rehearsals, 0, [0.2, 0.2], 1);
            tell(&mut rehearsals, 0, [0.98, 0.97], 30);
        }
        assert_eq!(rehearsals.of(0), Some(Rehearsal::Early));
    }

    #[test]
    fn a_group_counts_by_its_mean() {
        let mut rehearsals = Rehearsals::new(1, 2, DIM);
        tell(&mut rehearsals, 0, [0.99, 0.75], 200);
        assert_eq!(rehearsals.of(0), Some(Rehearsal::Early));
        tell(&mut rehearsals, 0, [0.99, 0.65], 200);
        assert_eq!(rehearsals.of(0), None);
    }

    #[test]
    fn queries_of_another_layer_are_not_compared() {
        let mut rehearsals = Rehearsals::new(2, 1, DIM);
        for _ in 0..100 {
            rehearsals.tell(0, &[1.0; DIM]);
            rehearsals.compare(1, &[-1.0; DIM]);
            rehearsals.compare(0, &[-1.0; DIM]);
        }
        assert_eq!(rehearsals.of(1), Some(Rehearsal::Early));
        assert_eq!(rehearsals.of(0), Some(Rehearsal::Early));
        assert!(cosine(&[0.0; DIM], &[1.0; DIM]).abs() < f32::EPSILON);
    }
}
