package process

import (
	"sync"
	"sync/atomic"

	"taskguide/control"
	"taskguide/guestkernel/heartbeat"
)

// beats finds the guest's heartbeats in what is printed on its console, for traces. As long as
// nobody follows them, it looks at nothing.
type beats struct {
	followed atomic.Bool

	mu        sync.Mutex
	stream    heartbeat.Stream
	followers map[int]func(control.Beat)
	next      int // the number of the next follower
}

// follow calls f for each heartbeat until unfollow is called. f must not block: the console's
// output waits for it.
func (b *beats) follow(f func(control.Beat)) (unfollow func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.followers) == 0 {
		b.stream.SkipLine() // nobody has looked at its beginning
		b.followers = map[int]func(control.Beat){}
	}
	number := b.next
	b.next++
	b.followers[number] = f
	b.followed.Store(true)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.followers, number)
		b.followed.Store(len(b.followers) > 0)
	}
}

// Write takes the next output. It never fails.
func (b *beats) Write(p []byte) (int, error) {
	if !b.followed.Load() {
		return len(p), nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stream.Feed(p, func(beat heartbeat.Beat) {
		for _, f := range b.followers {
			f(control.Beat{
				Time: beat.At, Task: beat.Task, ElapsedMS: beat.Elapsed.Milliseconds(),
				Passes: beat.Passes, Writes: beat.Writes, GapUS: beat.Gap.Microseconds(),
			})
		}
	})
	return len(p), nil
}

// FollowBeats calls f for each heartbeat that the guest prints, until the caller unsubscribes.
func (h *VM) FollowBeats(f func(control.Beat)) (unsubscribe func()) { return h.beats.follow(f) }
