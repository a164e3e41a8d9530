//! The merge loop that byte-level BPE and SentencePiece BPE share.
//!
//! A word starts as symbols (characters or bytes). The best pair of neighbours is merged, again and
//! again, until no pair can be. Best is the lowest priority number, and among equals the leftmost.
//! A heap of candidate pairs over a doubly linked list of symbols makes this O(n log n); a candidate
//! is stale, and skipped, when either side has changed since it was pushed.
//! SOURCE: Sennrich et al. 2016 (BPE); Kudo and Richardson 2018 (SentencePiece).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A run of the word, `start..end` in bytes. `id` is the vocabulary entry, when there is one.
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    pub start: usize,
    pub end: usize,
    pub id: Option<u32>,
    previous: usize,
    next: usize,
    alive: bool,
}

const NONE: usize = usize::MAX;

impl Symbol {
    pub fn new(start: usize, end: usize, id: Option<u32>) -> Self {
        Symbol { start, end, id, previous: NONE, next: NONE, alive: true }
    }
}

#[derive(Clone, Copy)]
struct Candidate {
    priority: f64,
    left: usize,
    right: usize,
    start: usize,
    end: usize,
    id: u32,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Candidate {}
impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Candidate {
    // BinaryHeap pops the greatest: the lowest priority number, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        other.priority.total_cmp(&self.priority).then_with(|| other.left.cmp(&self.left))
    }
}

/// What a table of merges answers for two neighbours: the priority and the id of the merged symbol.
pub trait MergeTable {
    fn find(&self, left: &Symbol, right: &Symbol) -> Option<(f64, u32)>;
}

/// Merges until nothing can be merged; the symbols that are left, in order.
pub fn merge_all(mut symbols: Vec<Symbol>, table: &impl MergeTable) -> Vec<Symbol> {
    let count = symbols.len();
    for (i, symbol) in symbols.iter_mut().enumerate() {
        symbol.previous = if i == 0 { NONE } else { i - 1 };
        symbol.next = if i + 1 == count { NONE } else { i + 1 };
    }
    let mut heap = BinaryHeap::new();
    let push = |heap: &mut BinaryHeap<Candidate>, symbols: &[Symbol], left: usize, right: usize| {
        if left == NONE || right == NONE {
            return;
        }
        if let Some((priority, id)) = table.find(&symbols[left], &symbols[right]) {
            heap.push(Candidate {
                priority,
                left,
                right,
                start: symbols[left].start,
                end: symbols[right].end,
                id,
            });
        }
    };
    for i in 1..count {
        push(&mut heap, &symbols, i - 1, i);
    }
    while let Some(best) = heap.pop() {
        let (left, right) = (symbols[best.left], symbols[best.right]);
        let fresh = left.alive
            && right.alive
            && left.start == best.start
            && right.end == best.end
            && left.next == best.right;
        if !fresh {
            continue;
        }
        symbols[best.left].end = right.end;
        symbols[best.left].id = Some(best.id);
        symbols[best.left].next = right.next;
        symbols[best.right].alive = false;
        if right.next != NONE {
            symbols[right.next].previous = best.left;
        }
        push(&mut heap, &symbols, left.previous, best.left);
        push(&mut heap, &symbols, best.left, right.next);
    }
    symbols.retain(|symbol| symbol.alive);
    symbols
}
