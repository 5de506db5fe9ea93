//! Reusable, cache-line aligned `f32` buffers.

/// Floats in a cache line.
const LINE: usize = 16;

/// A buffer that is grown as needed and handed out from a cache-line boundary, so that no vector load splits a line.
#[derive(Clone, Debug, Default)]
pub(super) struct AlignedBuffer {
    floats: Vec<f32>,
}

impl AlignedBuffer {
    /// The first `len` floats, with whatever they hold.
    pub(super) fn get(&mut self, len: usize) -> &mut [f32] {
        if self.floats.len() < len + LINE {
            self.floats.resize(len + LINE, 0.0);
        }
        // `align_offset` may decline (under Miri, say); alignment is only ever about speed.
        let skip = self.floats.as_ptr().align_offset(64).min(LINE);
        &mut self.floats[skip..skip + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_whole_lines_and_keeps_its_memory() {
        let mut buffer = AlignedBuffer::default();
        for len in [0, 1, 100, 7, 1000] {
            let floats = buffer.get(len);
            assert_eq!(floats.len(), len);
            assert_eq!(floats.as_ptr().align_offset(64), 0);
        }
        buffer.get(5)[4] = 2.0;
        assert_eq!(buffer.get(5)[4], 2.0);
    }
}
