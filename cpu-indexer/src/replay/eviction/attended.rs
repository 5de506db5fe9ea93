//! What was attended to, as a block cache sees it.

/// The steps of one layer and KV head.
#[derive(Debug, Clone, Default)]
pub(in crate::replay) struct Attended {
    pub(super) steps: Vec<Step>,
}

/// What one step attended to.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// Blocks, ascending.
    pub(super) blocks: Vec<u32>,
    /// The share of attention that the chosen keys of each block have, summed over the group.
    pub(super) weights: Vec<f32>,
    /// Whether the last block begins with the step's own token. The device fills it itself.
    pub(super) begins_block: bool,
}

impl Step {
    /// Whether `block` travels to a cache that does not hold it.
    pub(super) fn travels(&self, block: u32) -> bool {
        !(self.begins_block && self.blocks.last() == Some(&block))
    }
}

impl Attended {
    /// Takes in a step with `tokens` tokens, which attended to `blocks` of `block_tokens` tokens; `chosen` are the chosen tokens
    /// with their weights. Both ascend.
    pub(in crate::replay) fn push(
        &mut self,
        tokens: usize,
        block_tokens: usize,
        blocks: &[u32],
        chosen: impl Iterator<Item = (u32, f32)>,
    ) {
        let mut weights = vec![0.0; blocks.len()];
        let mut at = 0;
        for (token, weight) in chosen {
            let block = token / block_tokens as u32;
            at += blocks[at..].partition_point(|&other| other < block);
            weights[at] += weight;
        }
        let begins_block = tokens % block_tokens == 1;
        self.steps.push(Step { blocks: blocks.to_vec(), weights, begins_block });
    }

    /// Blocks of the largest selection.
    pub(super) fn most_blocks(&self) -> usize {
        self.steps.iter().map(|step| step.blocks.len()).max().unwrap_or(0)
    }

    /// One more than the largest number of a block.
    pub(super) fn text_blocks(&self) -> usize {
        let last = self.steps.iter().filter_map(|step| step.blocks.last()).max();
        last.map_or(0, |last| *last as usize + 1)
    }
}
