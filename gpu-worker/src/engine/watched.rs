//! Attention that is watched while a long chunk goes through the layers.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::{EngineError, Event, Listener, is_cancelled};
use crate::attention::{Attention, AttentionResult};
use crate::model::ModelError;

/// How often it is told, at most, how far a chunk has come.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Why a chunk was left before its last layer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Left {
    /// Nobody wants it any more.
    #[error("it was cancelled")]
    Cancelled,
    /// It could not go on.
    #[error(transparent)]
    Failed(#[from] EngineError),
}

impl Left {
    /// Why the model stopped, if the watch has not stopped it: its own failure.
    pub(super) fn because(error: ModelError) -> Self {
        match error {
            ModelError::Attention { layer, source } => match source.downcast() {
                Ok(left) => *left,
                Err(source) => EngineError::from(ModelError::Attention { layer, source }).into(),
            },
            other => EngineError::from(other).into(),
        }
    }
}

/// An attention that tells after a layer how many tokens of the prompt have been read, a chunk counting by its layers, and stops
/// the model when it is cancelled.
pub(super) struct Watched<'w> {
    attention: &'w mut (dyn Attention + Send),
    layers: usize,
    cancelled: &'w AtomicBool,
    listener: Listener<'w>,
    told: Instant,
}

impl<'w> Watched<'w> {
    /// Watches the `attention` of a model with so many `layers`.
    pub(super) fn new(
        attention: &'w mut (dyn Attention + Send),
        layers: usize,
        cancelled: &'w AtomicBool,
        listener: Listener<'w>,
    ) -> Self {
        Self { attention, layers, cancelled, listener, told: Instant::now() }
    }
}

impl Attention for Watched<'_> {
    fn forward(
        &mut self,
        layer: usize,
        start: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> AttentionResult {
        if is_cancelled(self.cancelled) {
            return Err(Left::Cancelled.into());
        }
        let out = self.attention.forward(layer, start, q, k, v)?;
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let read = start + q.dim(0)? * layer / self.layers;
            (self.listener)(Event::Prefilled(read)).map_err(Left::Failed)?;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use candle_core::{DType, Device};

    use super::*;

    /// An attention that takes a while.
    struct Slow;

    impl Attention for Slow {
        fn forward(
            &mut self,
            _: usize,
            _: usize,
            q: &Tensor,
            _: &Tensor,
            _: &Tensor,
        ) -> AttentionResult {
            std::thread::sleep(TELL_EVERY);
            Ok(q.clone())
        }
    }

    /// What each of the four layers of a chunk of eight tokens at the position 100 makes of `watched`, until one fails.
    fn pass(watched: &mut Watched<'_>) -> Result<(), ModelError> {
        let x = Tensor::zeros((8, 2), DType::F32, &Device::Cpu)?;
        for layer in 0..4 {
            let attended = watched.forward(layer, 100, &x, &x, &x);
            attended.map_err(|source| ModelError::Attention { layer, source })?;
        }
        Ok(())
    }

    #[test]
    fn a_chunk_that_takes_a_while_is_told_of_by_layers() {
        let (cancelled, mut told) = (AtomicBool::new(false), Vec::new());
        let mut listener = |event| {
            told.push(event);
            Ok(())
        };
        pass(&mut Watched::new(&mut Slow, 4, &cancelled, &mut listener)).unwrap();
        assert_eq!(told, [100, 102, 104, 106].map(Event::Prefilled));
    }

    #[test]
    fn a_chunk_is_left_in_its_midst_when_it_is_cancelled_or_nobody_listens() {
        let cancelled = AtomicBool::new(false);
        let mut listener = |event| {
            cancelled.store(event == Event::Prefilled(102), Ordering::Relaxed);
            Ok(())
        };
        let left = pass(&mut Watched::new(&mut Slow, 4, &cancelled, &mut listener)).unwrap_err();
        assert!(matches!(&left, ModelError::Attention { layer: 2, .. }), "{left}");
        assert!(matches!(Left::because(left), Left::Cancelled));

        cancelled.store(false, Ordering::Relaxed);
        let mut listener = |_| Err(EngineError::Launcher("gone".to_owned()));
        let left = pass(&mut Watched::new(&mut Slow, 4, &cancelled, &mut listener)).unwrap_err();
        assert!(matches!(Left::because(left), Left::Failed(EngineError::Launcher(_))));
    }

    #[test]
    fn what_stops_the_model_itself_is_kept() {
        let left = Left::because(ModelError::NoTokens);
        assert!(matches!(left, Left::Failed(EngineError::Model(ModelError::NoTokens))));
        let source = "broken".into();
        let left = Left::because(ModelError::Attention { layer: 3, source });
        assert_eq!(left.to_string(), "attention of layer 3: broken");
    }
}
