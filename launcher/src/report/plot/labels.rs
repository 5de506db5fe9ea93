//! Where the labels of marks go, so that they hide neither each other nor the marks.

use std::ops::Range;

/// A pixel: across and down.
type Pixel = (i32, i32);

/// Height of a line of text, and width of a character on average.
const LINE: i32 = 16;
const CHARACTER: i32 = 8;
/// Distance of a label from its mark.
const GAP: i32 = 8;
/// Half the side of the square that a mark takes.
const MARK: i32 = 5;
/// Lines that a label may be moved up or down.
const MOST_LINES: i32 = 16;

/// Where a label goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// Its upper left corner.
    pub(super) at: Pixel,
    /// From the mark to a label that does not stand beside it.
    pub(super) leader: Option<[Pixel; 2]>,
}

/// A rectangle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
}

impl Frame {
    const fn overlaps(self, other: Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    const fn holds(self, other: Self) -> bool {
        self.left <= other.left
            && other.right <= self.right
            && self.top <= other.top
            && other.bottom <= self.bottom
    }
}

/// The labels placed so far.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    bounds: Frame,
    taken: Vec<Frame>,
}

impl Labels {
    /// No labels yet, in an area of these pixels.
    pub(super) const fn new((across, down): (Range<i32>, Range<i32>)) -> Self {
        let (Range { start: left, end: right }, Range { start: top, end: bottom }) = (across, down);
        Self { bounds: Frame { left, top, right, bottom }, taken: Vec::new() }
    }

    /// Keeps labels off a mark.
    pub(super) fn add_mark(&mut self, (x, y): Pixel) {
        let mark = Frame { left: x - MARK, top: y - MARK, right: x + MARK, bottom: y + MARK };
        self.taken.push(mark);
    }

    /// The nearest free place for the label of a mark: right or left of it, or some lines above or below. Where all is taken,
    /// right of it.
    pub(super) fn place(&mut self, mark: Pixel, text: &str) -> Spot {
        let width = i32::try_from(text.chars().count()).unwrap_or(i32::MAX / CHARACTER) * CHARACTER;
        let (x, y) = mark;
        let frame = |right: bool, lines: i32| {
            let left = if right { x + GAP } else { x - GAP - width };
            let top = y - LINE / 2 + lines * LINE;
            Frame { left, top, right: left + width, bottom: top + LINE }
        };
        let lines = (0..=MOST_LINES).flat_map(|lines| [lines, -lines]);
        let spots = lines.flat_map(|lines| [(true, lines), (false, lines)]);
        let free = |frame: Frame| {
            self.bounds.holds(frame) && !self.taken.iter().any(|taken| taken.overlaps(frame))
        };
        let (right, lines) = spots
            .into_iter()
            .find(|&(right, lines)| free(frame(right, lines)))
            .unwrap_or((true, 0));
        let frame = frame(right, lines);
        self.taken.push(frame);
        let near = if right { frame.left } else { frame.right };
        let leader = (lines != 0).then_some([mark, (near, frame.top + LINE / 2)]);
        Spot { at: (frame.left, frame.top), leader }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_marks_in_one_place_do_not_overlap() {
        let mut labels = Labels::new((0..400, 0..300));
        let mark = (200, 150);
        labels.add_mark(mark);
        let spots: Vec<Spot> = (0..12).map(|_| labels.place(mark, "a policy")).collect();
        assert_eq!(spots[0], Spot { at: (208, 142), leader: None });
        assert_eq!(spots[1], Spot { at: (200 - 8 - 64, 142), leader: None });
        assert!(spots[2].leader.is_some());
        for (index, frame) in labels.taken.iter().enumerate() {
            assert!(!labels.taken[..index].iter().any(|other| other.overlaps(*frame)));
        }
    }

    #[test]
    fn a_label_stays_inside() {
        let mut labels = Labels::new((0..400, 0..300));
        assert_eq!(labels.place((390, 0), "policy").at, (390 - 8 - 48, 8));
    }
}
