//! Room for a bounded number of connections, such that peers that only sit there keep nobody out.
//!
//! A connection is either answering, which ends by itself, or waits for its peer: to send a request, or to take the
//! answer. When all seats are taken, the one that has waited longest loses its seat to the newcomer: the probe of
//! the kubelet and the next scrape get through, whoever else holds connections open.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use tokio::sync::Notify;

use crate::signal::lock;

/// All seats.
pub(super) struct Seats {
    limit: usize,
    taken: Mutex<Vec<Arc<Place>>>,
    freed: Notify,
}

struct Place {
    /// None while an answer is made.
    waits_since: Mutex<Option<Instant>>,
    lost: Notify,
}

/// One connection's seat; free again when it is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    place: Arc<Place>,
}

impl Seats {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default(), freed: Notify::new() })
    }

    /// A seat: a free one, else that of whoever has waited longest for its peer, else the next one that becomes free.
    pub(super) async fn take(self: &Arc<Self>) -> Seat {
        loop {
            if let Some(place) = self.try_take() {
                return Seat { seats: Arc::clone(self), place };
            }
            self.freed.notified().await;
        }
    }

    fn try_take(&self) -> Option<Arc<Place>> {
        let mut taken = self.taken();
        if taken.len() >= self.limit {
            let waiting = taken.iter().enumerate().filter_map(|(at, place)| Some((place.waits_since()?, at)));
            let (_, longest) = waiting.min()?;
            taken.remove(longest).lost.notify_one();
        }
        let place = Arc::new(Place { waits_since: Mutex::new(Some(Instant::now())), lost: Notify::new() });
        taken.push(Arc::clone(&place));
        Some(place)
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Arc<Place>>> {
        lock(&self.taken)
    }
}

impl Place {
    fn waits_since(&self) -> Option<Instant> {
        *lock(&self.waits_since)
    }

    fn set(&self, waits_since: Option<Instant>) {
        *lock(&self.waits_since) = waits_since;
    }
}

impl Seat {
    /// Ends once another has the seat.
    pub(super) async fn lost(&self) {
        self.place.lost.notified().await;
    }

    /// Makes an answer, during which the seat is safe.
    pub(super) async fn answering<T>(&self, answer: impl Future<Output = T>) -> T {
        self.place.set(None);
        let answer = answer.await;
        self.place.set(Some(Instant::now()));
        answer
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().retain(|place| !Arc::ptr_eq(place, &self.place));
        self.seats.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::{future::pending, sync::Arc, time::Duration};

    use tokio::time::timeout;

    use super::{Seat, Seats};

    const MOMENT: Duration = Duration::from_millis(50);

    async fn is_lost(seat: &Seat) -> bool {
        timeout(MOMENT, seat.lost()).await.is_ok()
    }

    #[tokio::test]
    async fn the_one_that_has_waited_longest_for_its_peer_makes_room() {
        let seats = Seats::new(2);
        let (first, second) = (seats.take().await, seats.take().await);
        // Whoever was answered just now has not waited long.
        first.answering(async {}).await;
        let third = timeout(MOMENT, seats.take()).await.expect("a seat");
        assert!(is_lost(&second).await && !is_lost(&first).await && !is_lost(&third).await);
    }

    #[tokio::test]
    async fn nobody_is_cut_while_an_answer_is_made_and_a_free_seat_goes_to_whoever_waits() {
        let seats = Seats::new(1);
        let busy = Arc::new(seats.take().await);
        let held = Arc::clone(&busy);
        let answer = tokio::spawn(async move { held.answering(pending::<()>()).await });
        tokio::task::yield_now().await;
        assert!(timeout(MOMENT, seats.take()).await.is_err(), "the only seat is in use");
        assert!(!is_lost(&busy).await);
        let next = tokio::spawn(async move { seats.take().await });
        answer.abort();
        let _ = answer.await;
        drop(busy);
        timeout(MOMENT, next).await.expect("the seat is free").unwrap();
    }
}
