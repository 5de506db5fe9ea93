//! The thread that waits for processes, files and the user at once.

use crate::error::Error;

/// Runs a command to its end.
///
/// # Errors
/// Its own.
pub(super) fn block_on<R>(command: impl Future<Output = Result<R, Error>>) -> Result<R, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::internal)?
        .block_on(command)
}
