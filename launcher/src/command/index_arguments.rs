//! The index's parameters as flags.

use clap::Args;
use hindsight_cpu_indexer::parameters::IndexParameters;

use super::run::AttentionArguments;
use crate::error::{Error, Exit};

/// How LFPS predicts; the defaults are measured.
#[derive(Debug, Args)]
#[command(next_help_heading = "LFPS index")]
pub struct IndexArguments {
    /// How many of the last prompt queries seed the history
    #[arg(long, default_value_t = IndexParameters::default().seed_queries)]
    pub seed_queries: usize,
}

impl AttentionArguments {
    /// The index's parameters, checked.
    ///
    /// # Errors
    /// A parameter is out of range.
    pub fn parameters(&self) -> Result<IndexParameters, Error> {
        let parameters = IndexParameters {
            top_k: self.top_k,
            sink: self.sink,
            window: self.window,
            dense_layers: self.dense_layers,
            seed_queries: self.index.seed_queries,
            ..IndexParameters::default()
        };
        parameters
            .validate()
            .map_err(|error| Error::new(Exit::Usage, "index_parameters", error))?;
        Ok(parameters)
    }
}
