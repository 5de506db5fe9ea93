//! Lists of numbers as Linux writes them: `0-3,8`.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Linux counts at most so many CPUs, and fewer nodes.
const LIMIT: u32 = 8192;

/// Numbers of CPUs or nodes, ascending, each once. As text and in JSON it reads `0-3,8`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuList(Vec<u32>);

/// Text that is no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of numbers below 8192 such as 0-3,8")]
pub struct CpuListError(String);

impl CpuList {
    /// The numbers, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// Whether `number` is in the list.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.0.binary_search(&number).is_ok()
    }

    /// Whether the list is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// The numbers that are in `other`, too.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.0.iter().copied().filter(|&number| other.contains(number)).collect()
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        Self(numbers)
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, CpuListError> {
        let fault = || CpuListError(text.trim().to_owned());
        let number = |text: &str| match text.trim().parse::<u32>() {
            Ok(number) if number < LIMIT => Ok(number),
            _ => Err(fault()),
        };
        let mut numbers = Vec::new();
        for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            match part.split_once('-') {
                None => numbers.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(fault());
                    }
                    numbers.extend(first..=last);
                }
            }
        }
        Ok(numbers.into_iter().collect())
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.0.chunk_by(|a, b| a + 1 == *b);
        for (index, range) in ranges.enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match range {
                [only] => write!(f, "{comma}{only}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

impl Serialize for CpuList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_read_as_linux_writes_them() {
        let read = |text: &str| text.parse::<CpuList>().unwrap().0;
        assert_eq!(read("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(read("8, 0-1"), [0, 1, 8]);
        assert!(read("\n").is_empty());
    }

    #[test]
    fn what_is_no_list_is_named_and_takes_no_memory() {
        for text in ["a", "3-1", "0-4294967295", "1,,2", "-1", "8192"] {
            let error = text.parse::<CpuList>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(numbers in prop::collection::vec(0..LIMIT, 0..50)) {
            let list: CpuList = numbers.into_iter().collect();
            prop_assert_eq!(list.to_string().parse(), Ok(list));
        }
    }
}
