package peer

import (
	"time"

	"golang.org/x/sys/unix"
)

// The clock of the handover. From prepared on, the two ends may lose each other, and then only time
// can tell one end that the other will do nothing more. So the destination runs the guest within
// Lifetime or never, counted from just before it wrote prepared. The source may be forced once
// Lifetime and Margin have passed since prepared arrived, which is later.
const (
	// Lifetime is how long a destination keeps a guest that was handed over without being
	// told to run it. A handover takes milliseconds; this leaves room for a link that
	// loses packets for a while, and is what an operator waits for at most.
	Lifetime = 30 * time.Second
	// CommitWithin is how long after prepared the source may still commit. A later commit might
	// arrive after the lifetime and leave an avoidable doubt; with this bound it has 20 s to
	// arrive.
	CommitWithin = 10 * time.Second
	// Margin is what the source waits beyond the lifetime. It covers clocks of different speed (5 s
	// of 30 are a sixth; quartz differs by less than a thousandth), and the time between the
	// destination's look at the clock and the guest's first instruction.
	Margin = 5 * time.Second
)

// Boottime is the time since this host booted, including the time that it slept (CLOCK_BOOTTIME,
// clock_gettime(2)).
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock_gettime(CLOCK_BOOTTIME): " + err.Error()) // Linux has it since 2.6.39
	}
	return time.Duration(ts.Nano())
}
