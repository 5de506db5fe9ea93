//! What the doctor found, for people.

use std::fmt;

use crate::doctor::{Findings, State};

/// One line for each check, and below it what follows and what mends it.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let indent = 9 + width;
        for check in &self.checks {
            writeln!(f, "{:<7}  {:<width$}  {}", name(check.state), check.name, check.found)?;
            if let Some(consequence) = &check.consequence {
                writeln!(f, "{:indent$}  {consequence}", "")?;
            }
            if let Some(mend) = &check.mend {
                writeln!(f, "{:indent$}  mend: {mend}", "")?;
            }
        }
        let count = |state| self.checks.iter().filter(|check| check.state == state).count();
        match (count(State::Broken), count(State::Slower)) {
            (0, 0) => writeln!(f, "\nnothing to mend"),
            (0, slower) => writeln!(f, "\n{slower} to mend: Hindsight runs, but could do better"),
            (broken, slower) => writeln!(f, "\n{} to mend: runs will fail", broken + slower),
        }
    }
}

const fn name(state: State) -> &'static str {
    match state {
        State::Good => "good",
        State::Unknown => "unknown",
        State::Slower => "slower",
        State::Broken => "broken",
    }
}
