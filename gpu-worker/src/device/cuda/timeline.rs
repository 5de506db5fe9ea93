//! What the GPU did when, in runs that are profiled.
//!
//! Each span lies between two events of its stream. Events know the time between each other, but not the time of day: that
//! comes from an anchor, an event that the host waits for. The spans before it are laid back from the moment at which the
//! wait ended, so they may seem later than they were by what the host took to notice, and never overlap on a stream.

use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use hindsight_protocol::profile::{Activity, Detail, Event, Recorder, now};

use super::error::{CudaError, reach, tried};

/// Times of what is queued; none are taken before [`Self::start`].
#[derive(Debug)]
pub(super) struct Timeline {
    context: Arc<CudaContext>,
    is_on: bool,
    /// Events to be used again.
    idle: Vec<CudaEvent>,
    /// What may not be done yet.
    queued: Vec<Span>,
    /// What is done.
    done: Vec<Event>,
}

#[derive(Debug)]
struct Span {
    began: CudaEvent,
    ended: CudaEvent,
    activity: Activity,
    detail: Detail,
}

/// A point of a stream; none where no times are taken.
#[derive(Debug)]
#[must_use]
pub(super) struct Point(Option<CudaEvent>);

impl Timeline {
    pub(super) const fn new(context: Arc<CudaContext>) -> Self {
        Self { context, is_on: false, idle: Vec::new(), queued: Vec::new(), done: Vec::new() }
    }

    /// Takes times from now on.
    pub(super) const fn start(&mut self) {
        self.is_on = true;
    }

    /// Marks where `stream` has got to when it has done what is queued so far.
    pub(super) fn point(&mut self, stream: &CudaStream) -> Result<Point, CudaError> {
        if !self.is_on {
            return Ok(Point(None));
        }
        let event = match self.idle.pop() {
            Some(event) => event,
            None => self
                .context
                .new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
                .map_err(tried("make an event"))?,
        };
        event.record(stream).map_err(tried("time what is queued"))?;
        Ok(Point(Some(event)))
    }

    /// States that what was queued on `stream` since `began` is `activity`.
    pub(super) fn span(
        &mut self,
        stream: &CudaStream,
        began: Point,
        activity: Activity,
        detail: Detail,
    ) -> Result<(), CudaError> {
        if let (Some(began), Some(ended)) = (began.0, self.point(stream)?.0) {
            self.queued.push(Span { began, ended, activity, detail });
        }
        Ok(())
    }

    /// Finds out when each span was, now that `anchor` has been waited for, and that all of them come before it.
    pub(super) fn resolve(&mut self, anchor: Point) -> Result<(), CudaError> {
        let Some(anchor) = anchor.0 else { return Ok(()) };
        let moment = now();
        for Span { began, ended, activity, detail } in self.queued.drain(..) {
            let [began_ns, ended_ns] = [
                moment.saturating_sub(nanoseconds(&began, &anchor)?),
                moment.saturating_sub(nanoseconds(&ended, &anchor)?),
            ];
            self.done.push(Event { activity, began_ns, ended_ns, detail });
            self.idle.extend([began, ended]);
        }
        self.idle.push(anchor);
        Ok(())
    }

    /// Waits for `stream`, and hands over all that was done. Other streams must have nothing to do that it does not wait for.
    pub(super) fn record(
        &mut self,
        stream: &CudaStream,
        recorder: &mut Recorder,
    ) -> Result<(), CudaError> {
        let anchor = self.point(stream)?;
        if let Some(event) = &anchor.0 {
            reach(event)?;
        }
        self.resolve(anchor)?;
        self.done.drain(..).for_each(|event| recorder.record_event(event));
        Ok(())
    }
}

/// From one event to a later one, both of which have come.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time, not negative")]
fn nanoseconds(from: &CudaEvent, to: &CudaEvent) -> Result<u64, CudaError> {
    let milliseconds = from.elapsed_ms(to).map_err(tried("tell the time between events"))?;
    Ok((f64::from(milliseconds.max(0.0)) * 1e6) as u64)
}
