//! How large a prompt can be.

/// The largest size found from `smallest` to `largest` that fits; none if the smallest does not.
///
/// Larger prompts take more tokens on the whole, but not always: so the size returned has been tried itself, and a
/// larger one may happen to fit.
pub(super) fn largest<E>(
    smallest: usize,
    largest: usize,
    mut fits: impl FnMut(usize) -> Result<bool, E>,
) -> Result<Option<usize>, E> {
    if !fits(smallest)? {
        return Ok(None);
    }
    let (mut fitting, mut step) = (smallest, 1);
    while fitting < largest {
        let next = fitting.saturating_add(step).min(largest);
        if !fits(next)? {
            break;
        }
        fitting = next;
        step *= 2;
    }
    let mut beyond = fitting.saturating_add(step).min(largest.saturating_add(1));
    while beyond - fitting > 1 {
        let middle = fitting + (beyond - fitting) / 2;
        if fits(middle)? {
            fitting = middle;
        } else {
            beyond = middle;
        }
    }
    Ok(Some(fitting))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_the_limit(smallest in 0..20_usize, limit in 0..900_usize, end in 20..1000_usize) {
            let found = largest(smallest, end, |size| Ok::<_, Infallible>(size <= limit)).unwrap();
            let expected = (smallest <= limit).then(|| limit.min(end));
            prop_assert_eq!(found, expected);
        }
    }
}
