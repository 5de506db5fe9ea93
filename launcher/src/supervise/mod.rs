//! Starting, watching and ending the two children.

mod child;
mod processes;

pub use child::{Ending, Role};
pub use processes::{Event, Processes, Settings};
