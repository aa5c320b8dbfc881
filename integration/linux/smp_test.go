//go:build stockkvm

package linux

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
)

const (
	// smpBoots is how many guests boot, with 2 and with 4 vCPUs by turns.
	smpBoots = 20
	// smpPatience is for one of them. A boot takes 10 to 20 s where nothing else runs.
	smpPatience = 6 * time.Minute
)

// TestSMPLinuxBootsEveryTime boots Debian's kernel again and again, with several vCPUs, and moves
// each guest once, verified. All processors are there before the move and after it.
func TestSMPLinuxBootsEveryTime(t *testing.T) {
	host := startHost(t)
	booted := 0
	for n := range smpBoots {
		cpus := 2 + n%2*2 // 2, 4, 2, ...
		started := time.Now()
		if err := bootSMP(t, host, n, cpus); err != nil {
			t.Errorf("boot %d, %d vCPUs: %v", n+1, cpus, err)
		} else {
			booted++
		}
		t.Logf("boot %d, %d vCPUs: %.0f s with its move", n+1, cpus,
			time.Since(started).Seconds())
		requireRun(t.Context(), t, host, "kill -9 $(pidof vmm) 2>/dev/null; rm -f /run/smp*; true")
	}
	t.Logf("%d of %d boots", booted, smpBoots)
	require.Equal(t, smpBoots, booted)
}

// bootSMP boots a guest and moves it. The error of one that hangs says what its vCPUs are doing.
func bootSMP(t *testing.T, host *stockkvm.Host, n, cpus int) error {
	ctx, cancel := context.WithTimeout(t.Context(), smpPatience)
	defer cancel()
	here, there := fmt.Sprintf("smp%d", n), fmt.Sprintf("smp%d-moved", n)
	source := run(t, host, "--name", here, "--memory", "192M", "--cpus", fmt.Sprint(cpus),
		"--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd,
		"--cmdline", "console=ttyS0 quiet")
	if err := source.console.WaitText(ctx, prompt); err != nil {
		return hangs(t, host, here, source, err)
	}
	count := fmt.Sprintf("processors=%d.", cpus)
	source.typed(t, "echo processors=$(nproc).")
	if err := source.console.WaitText(ctx, count); err != nil {
		return hangs(t, host, here, source, err)
	}
	destination := run(t, host, "--name", there, "--incoming", "unix:/run/"+there)
	awaitUp(ctx, t, host, there)
	out, err := host.Run(ctx, "vmm", "migrate", here, "unix:/run/"+there, "--verify")
	require.NoError(t, err)
	if out.Exit.Code != 0 {
		return hangs(t, host, here, source, errors.New(out.Stderr))
	}
	destination.typed(t, "echo processors=$(nproc).")
	if err := destination.console.WaitText(ctx, count); err != nil {
		return hangs(t, host, there, destination, err)
	}
	return nil
}

// hangs describes a guest that does not go on.
func hangs(t *testing.T, host *stockkvm.Host, name string, m *machine, err error) error {
	t.Helper()
	out, runErr := host.Run(t.Context(), "vmm", "debug", name)
	require.NoError(t, runErr)
	lines := strings.Split(strings.TrimSpace(m.console.String()), "\n")
	threads := requireRun(t.Context(), t, host,
		"uptime; for p in $(pidof vmm); do for s in /proc/$p/task/*; do "+
			"cut -c -80 $s/stat; cat $s/wchan; echo; done; done; true")
	return fmt.Errorf("%w\n%s%s\nits last lines:\n%s\n%s\n%s", err, out.Stdout, out.Stderr,
		strings.Join(lines[max(0, len(lines)-10):], "\n"), m.stderr.String(), threads)
}
